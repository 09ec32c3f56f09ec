//! Complete files, read by an independent reader.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::base::error::{Error, Kind};
use crate::gguf::write;

/// A folder with one safetensors file of float32 tensors.
struct TestModel {
    folder: TempDir,
}

impl TestModel {
    fn new(tensors: &[(&str, &[usize], &[f32])]) -> TestModel {
        let model = TestModel { folder: tempfile::tempdir().unwrap() };
        let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, _, numbers)| numbers.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let views =
            tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| (name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
        safetensors::serialize_to_file(views, None, &model.path("model.safetensors")).unwrap();
        model
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn plan(&self, tensors: Value) -> Value {
        let keys = json!([
            {"key": "general.architecture", "value": {"string": "qwen2"}},
            {"key": "tokenizer.ggml.tokens", "value": {"strings": ["a", "Ġb", ""]}},
            {"key": "x.uint32", "value": {"uint32": 7}},
            {"key": "x.int32", "value": {"int32": -7}},
            {"key": "x.float32", "value": {"float32": 1e-6}},
            {"key": "x.bool", "value": {"bool": true}},
            {"key": "x.uint32s", "value": {"uint32s": [7, 8]}},
            {"key": "x.int32s", "value": {"int32s": [-1, 2, 3]}},
            {"key": "x.bools", "value": {"bools": [true, false, true]}},
        ]);
        json!({"version": 1, "target": self.path("out.gguf"), "files": [self.path("model.safetensors")], "keys": keys, "tensors": tensors})
    }

    fn write_plan(&self, plan: &Value, progress: &mut dyn FnMut(u64, u64, &str) -> Result<()>) -> Result<u64> {
        let path = self.path("plan.json");
        fs::write(&path, plan.to_string()).unwrap();
        let written = write(&path, progress);
        fs::remove_file(path).unwrap();
        written
    }

    fn write(&self, tensors: Value) -> Result<u64> {
        self.write_plan(&self.plan(tensors), &mut |_, _, _| Ok(()))
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[derive(Debug)]
struct WrittenTensor {
    /// Innermost dimension first, as in the file.
    shape: Vec<u64>,
    kind: u32,
    start: usize,
}

/// The content of a GGUF file: each key's type and value as bytes, and each tensor.
struct GgufFile {
    bytes: Vec<u8>,
    keys: HashMap<String, Vec<u8>>,
    tensors: HashMap<String, WrittenTensor>,
}

impl GgufFile {
    fn read(path: &Path) -> GgufFile {
        let bytes = fs::read(path).unwrap();
        let at = &mut 24;
        assert_eq!((&bytes[..4], u32::from_le_bytes(bytes[4..8].try_into().unwrap())), (&b"GGUF"[..], 3));
        let counts = [8, 16].map(|at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()));
        let mut keys = HashMap::new();
        for _ in 0..counts[1] {
            let key = string(&bytes, at);
            let start = *at;
            let kind = u32_at(&bytes, at);
            skip(&bytes, at, kind);
            keys.insert(key, bytes[start..*at].to_vec());
        }
        let mut tensors = HashMap::new();
        for _ in 0..counts[0] {
            let name = string(&bytes, at);
            let shape = (0..u32_at(&bytes, at)).map(|_| u64_at(&bytes, at)).collect();
            let (kind, start) = (u32_at(&bytes, at), u64_at(&bytes, at) as usize);
            tensors.insert(name, WrittenTensor { shape, kind, start });
        }
        let data = at.next_multiple_of(32);
        for tensor in tensors.values_mut() {
            tensor.start += data;
        }
        GgufFile { bytes, keys, tensors }
    }

    fn f32s(&self, name: &str) -> Vec<f32> {
        let tensor = &self.tensors[name];
        assert_eq!(tensor.kind, 0);
        let bytes = &self.bytes[tensor.start..tensor.start + 4 * tensor.shape.iter().product::<u64>() as usize];
        bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

fn u32_at(bytes: &[u8], at: &mut usize) -> u32 {
    *at += 4;
    u32::from_le_bytes(bytes[*at - 4..*at].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: &mut usize) -> u64 {
    *at += 8;
    u64::from_le_bytes(bytes[*at - 8..*at].try_into().unwrap())
}

fn string(bytes: &[u8], at: &mut usize) -> String {
    let length = u64_at(bytes, at) as usize;
    *at += length;
    String::from_utf8(bytes[*at - length..*at].to_vec()).unwrap()
}

fn skip(bytes: &[u8], at: &mut usize, kind: u32) {
    match kind {
        4..=6 => *at += 4,
        7 => *at += 1,
        8 => drop(string(bytes, at)),
        9 => {
            let kind = u32_at(bytes, at);
            (0..u64_at(bytes, at)).for_each(|_| skip(bytes, at, kind));
        }
        other => panic!("type {other}"),
    }
}

fn counting(count: usize) -> Vec<f32> {
    (0..count).map(|index| index as f32).collect()
}

#[test]
fn keys_have_their_types_and_values() {
    let model = TestModel::new(&[("a", &[1], &[1.0])]);
    model.write(json!([{"name": "a", "type": "F32", "shape": [1], "parts": [{"file": 0, "tensor": "a"}]}])).unwrap();
    let keys = GgufFile::read(&model.path("out.gguf")).keys;
    assert_eq!(keys["general.architecture"], b"\x08\0\0\0\x05\0\0\0\0\0\0\0qwen2");
    assert_eq!(
        keys["tokenizer.ggml.tokens"],
        b"\x09\0\0\0\x08\0\0\0\x03\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\x03\0\0\0\0\0\0\0\xc4\xa0b\0\0\0\0\0\0\0\0"
    );
    assert_eq!(keys["x.uint32"], b"\x04\0\0\0\x07\0\0\0");
    assert_eq!(keys["x.int32"], b"\x05\0\0\0\xf9\xff\xff\xff");
    assert_eq!(keys["x.float32"], [&b"\x06\0\0\0"[..], &1e-6_f32.to_le_bytes()].concat());
    assert_eq!(keys["x.bool"], b"\x07\0\0\0\x01");
    assert_eq!(keys["x.bools"], b"\x09\0\0\0\x07\0\0\0\x03\0\0\0\0\0\0\0\x01\0\x01");
    assert_eq!(keys["x.int32s"].len(), 16 + 12);
    assert_eq!(keys["x.uint32s"][4..8], 4_u32.to_le_bytes());
}

#[test]
fn tensors_have_the_rows_and_columns_of_the_plan() {
    let fused = counting(2 * 4 * 3);
    let model = TestModel::new(&[("fused", &[2, 4, 3], &fused), ("one", &[1, 3], &[0.5, 1.5, 2.5]), ("heads", &[4], &[0., 1., 2., 3.])]);
    model
        .write(json!([
            {"name": "gate", "type": "F32", "shape": [2, 2, 3], "parts": [{"file": 0, "tensor": "fused", "rows": [[0, 2], [4, 2]]}]},
            {"name": "stack", "type": "F32", "shape": [2, 1, 3], "parts": [{"file": 0, "tensor": "one"}, {"file": 0, "tensor": "fused", "rows": [[7, 1]]}]},
            {"name": "heads", "type": "F32", "shape": [4], "add": 1.0, "parts": [{"file": 0, "tensor": "heads", "columns": [[0, 1], [2, 1], [1, 1], [3, 1]]}]},
            {"name": "turned", "type": "F32", "shape": [3, 1], "parts": [{"file": 0, "tensor": "one", "transpose": true}]},
            {"name": "given", "type": "F32", "shape": [2], "values": [-1.5, 0.1]},
        ]))
        .unwrap();
    let file = GgufFile::read(&model.path("out.gguf"));
    assert_eq!(file.f32s("gate"), [&fused[0..6], &fused[12..18]].concat());
    assert_eq!(file.tensors["gate"].shape, [3, 2, 2]);
    assert_eq!(file.f32s("stack"), [0.5, 1.5, 2.5, 21.0, 22.0, 23.0]);
    assert_eq!(file.f32s("heads"), [1.0, 3.0, 2.0, 4.0]);
    assert_eq!((file.f32s("turned"), file.tensors["turned"].shape.clone()), (vec![0.5, 1.5, 2.5], vec![1, 3]));
    assert_eq!(file.f32s("given"), [-1.5, 0.1]);
    assert!(file.tensors.values().all(|tensor| tensor.start % 32 == 0));
}

#[test]
fn a_tensor_larger_than_the_buffers_is_written_completely() {
    let (rows, columns) = (1500, 4096);
    let numbers = counting(rows * columns);
    let model = TestModel::new(&[("big", &[rows, columns], &numbers), ("small", &[3], &[1.0, 2.0, 3.0])]);
    let tensor = |name: &str, format: &str, source: &str, shape: Value| json!({"name": name, "type": format, "shape": shape, "parts": [{"file": 0, "tensor": source}]});
    let plan = model.plan(json!([
        tensor("small", "F32", "small", json!([3])),
        tensor("big", "F32", "big", json!([rows, columns])),
        tensor("half", "BF16", "big", json!([rows, columns])),
    ]));
    let mut seen = Vec::new();
    let written = model.write_plan(&plan, &mut |done, total, name| {
        seen.push((done, total, name.to_string()));
        Ok(())
    });
    let file = GgufFile::read(&model.path("out.gguf"));
    assert_eq!(written.unwrap(), file.bytes.len() as u64);
    assert_eq!(file.f32s("big"), numbers);
    let half = &file.bytes[file.tensors["half"].start..];
    for (index, number) in numbers.iter().enumerate() {
        assert_eq!(half[2 * index..2 * index + 2], half::bf16::from_f32(*number).to_le_bytes());
    }
    assert!(seen.is_sorted() && seen.len() > 2, "{seen:?}");
    let (done, total, name) = seen.pop().unwrap();
    assert_eq!((done, name.as_str()), (total, "half"));
}

#[test]
fn an_interruption_keeps_the_existing_file_and_leaves_no_temporary_file() {
    let model = TestModel::new(&[("a", &[64, 64], &counting(4096))]);
    fs::write(model.path("out.gguf"), "old").unwrap();
    let plan = model.plan(json!([{"name": "a", "type": "Q8_0", "shape": [64, 64], "parts": [{"file": 0, "tensor": "a"}]}]));
    for stop_at in [0, 1] {
        let mut calls = 0;
        let error = model.write_plan(&plan, &mut |_, _, _| {
            calls += 1;
            if calls > stop_at {
                bail!(Error::new(Kind::Interrupted, "stopped"));
            }
            Ok(())
        });
        assert_eq!(Error::of(&error.unwrap_err()).kind, Kind::Interrupted);
        assert_eq!(fs::read(model.path("out.gguf")).unwrap(), b"old");
        assert_eq!(model.files(), ["model.safetensors", "out.gguf"]);
    }
}

#[test]
fn wrong_plans_are_refused_and_nothing_is_written() {
    let model = TestModel::new(&[("a", &[4, 32], &counting(128)), ("v", &[3], &counting(3))]);
    let a = |shape: Value, extra: Value| {
        let mut part = json!({"file": 0, "tensor": "a"});
        part.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!([{"name": "t", "type": "F32", "shape": shape, "parts": [part]}])
    };
    let max = usize::MAX;
    for (tensors, says) in [
        (a(json!([4, 31]), json!({})), "gives rows of 32 elements, not 31"),
        (a(json!([3, 32]), json!({})), "needs 3 rows, but its sources have 4"),
        (a(json!([4, 32]), json!({"rows": [[1, 4]]})), "does not have all requested rows"),
        (a(json!([4, 32]), json!({"rows": [[max, 2]]})), "does not have all requested rows"),
        (a(json!([4, 32]), json!({"columns": [[0, 16], [17, 16]]})), "does not have all requested rows and columns"),
        (a(json!([max, 32]), json!({})), "too large"),
        (a(json!([max, max, 2]), json!({})), "too large"),
        (a(json!([]), json!({})), "shape is empty"),
        (a(json!([0, 32]), json!({})), "no elements"),
        (a(json!([4, 32]), json!({"tensor": "b"})), "has no tensor b"),
        (a(json!([4, 32]), json!({"file": 9})), "no file 9"),
        (a(json!([1, 1, 1, 4, 32]), json!({})), "more than 4 dimensions"),
        (json!([{"name": "t", "type": "Q8_0", "shape": [3], "parts": [{"file": 0, "tensor": "v"}]}]), "not a multiple of the block"),
        (json!([{"name": "t", "type": "F32", "shape": [3], "parts": [{"file": 0, "tensor": "v", "transpose": true}]}]), "not a matrix"),
        (json!([{"name": "t", "type": "F32", "shape": [3], "values": [1.0]}]), "1 values"),
        (
            json!([{"name": "t", "type": "F32", "shape": [1], "values": [1.0]}, {"name": "t", "type": "F32", "shape": [1], "values": [1.0]}]),
            "twice",
        ),
        (json!([{"name": "t".repeat(64), "type": "F32", "shape": [1], "values": [1.0]}]), "more than the 63 bytes"),
        (json!([{"name": "t", "type": "Q4_K", "shape": [32], "values": [1.0]}]), "not a multiple of the block of Q4_K"),
        (json!([{"name": "t", "type": "Q4_9", "shape": [1], "values": [1.0]}]), "not a valid GGUF plan"),
    ] {
        let error = format!("{:#}", model.write(tensors.clone()).expect_err(says));
        assert!(error.contains(says), "{tensors}: {error}");
        assert_eq!(model.files(), ["model.safetensors"]);
    }
    let mut plan = model.plan(json!([]));
    plan["version"] = json!(2);
    assert!(model.write_plan(&plan, &mut |_, _, _| Ok(())).unwrap_err().to_string().contains("version 2"));
    plan["version"] = json!(1);
    plan["files"] = json!([model.path("gone.safetensors")]);
    let error = model.write_plan(&plan, &mut |_, _, _| Ok(())).unwrap_err();
    assert!(error.to_string().contains("gone.safetensors"));
    assert_eq!(Error::of(&error).kind, Kind::Io);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any selection of rows and columns equals the result of indexing.
    #[test]
    fn any_selection_equals_indexing(
        rows in prop::collection::vec((0_usize..20, 1_usize..6), 1..8),
        columns in prop::option::of(prop::collection::vec((0_usize..40, 1_usize..20), 1..6)),
        transpose: bool,
        add in prop::option::of(Just(0.25_f32)),
    ) {
        let (height, width) = if transpose { (60, 25) } else { (25, 60) };
        let numbers = counting(height * width);
        let model = TestModel::new(&[("a", &[height, width], &numbers)]);
        let chosen_columns = columns.clone().unwrap_or(vec![(0, 60)]);
        let indices = |ranges: &[(usize, usize)]| ranges.iter().flat_map(|(first, count)| *first..first + count).collect::<Vec<_>>();
        let (row_indices, column_indices) = (indices(&rows), indices(&chosen_columns));
        let mut part = json!({"file": 0, "tensor": "a", "rows": rows, "transpose": transpose});
        if let Some(columns) = columns {
            part["columns"] = json!(columns);
        }
        let mut tensor = json!({"name": "t", "type": "F32", "shape": [row_indices.len(), column_indices.len()], "parts": [part]});
        if let Some(add) = add {
            tensor["add"] = json!(add);
        }
        model.write(json!([tensor])).unwrap();
        let mut expected = Vec::new();
        for row in &row_indices {
            for column in &column_indices {
                let at = if transpose { column * width + row } else { row * width + column };
                expected.push(numbers[at] + add.unwrap_or(0.0));
            }
        }
        prop_assert_eq!(GgufFile::read(&model.path("out.gguf")).f32s("t"), expected);
    }
}

fn text_values(bytes: &[u8], key: &str) -> Vec<String> {
    let mut at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len() + 8;
    let mut number = || {
        at += 8;
        u64::from_le_bytes(bytes[at - 8..at].try_into().unwrap()) as usize
    };
    let count = number();
    let mut texts = Vec::new();
    for _ in 0..count {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        texts.push(String::from_utf8(bytes[at + 8..at + 8 + length].to_vec()).unwrap());
        at += 8 + length;
    }
    texts
}

#[test]
fn the_vocabulary_is_read_from_the_tokenizer() {
    let model = TestModel::new(&[("w", &[1, 32], &[1.0; 32])]);
    let merges = json!([["a", "b"], "c d", ["e f", "g"]]);
    let tokenizer = json!({"model": {"type": "BPE", "vocab": {"b": 1, "a": 0, "<|x|>": 2}, "merges": merges}});
    fs::write(model.path("tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut plan = model.plan(json!([{"name": "w", "type": "F32", "shape": [1, 32], "parts": [{"file": 0, "tensor": "w"}]}]));
    plan["keys"] =
        json!([{"key": "k.tokens", "value": "tokens"}, {"key": "k.merges", "value": "merges"}, {"key": "k.types", "value": "types"}]);
    let lacking = model.write_plan(&plan, &mut |_, _, _| Ok(())).unwrap_err().to_string();
    assert!(lacking.contains("k.tokens"), "{lacking}");

    let added = json!([{"id": 2, "text": "<x>", "type": 3}, {"id": 4, "text": "<y>", "type": 4}]);
    plan["vocabulary"] = json!({"tokenizer": model.path("tokenizer.json"), "size": 6, "added": added});
    model.write_plan(&plan, &mut |_, _, _| Ok(())).unwrap();
    let file = fs::read(model.path("out.gguf")).unwrap();
    assert_eq!(text_values(&file, "k.tokens"), ["a", "b", "<x>", "[PAD3]", "<y>", "[PAD5]"]);
    assert_eq!(text_values(&file, "k.merges"), ["a b", "c d", "eĠf g"]);
    let at = file.windows(7).position(|window| window == b"k.types").unwrap() + 7 + 4 + 4 + 8;
    let types: Vec<i32> = file[at..at + 24].chunks(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(types, [1, 1, 3, 5, 4, 5]);

    plan["vocabulary"]["size"] = json!(4);
    let large = model.write_plan(&plan, &mut |_, _, _| Ok(())).unwrap_err().to_string();
    assert!(large.contains("ids up to 4, but the model's embedding has only 4 rows"), "{large}");
}
