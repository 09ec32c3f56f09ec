//! The result does not depend on block size, compression or number of files; memory is limited.

use std::fs;
use std::io::Write;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::data::parse::columns::{Layout, Shape};
use crate::data::read::problem::Problems;
use crate::data::read::reader::{Batch, Reader};
use crate::data::read::size_limits::{SIZE_LIMITS, SizeLimits};
use crate::data::tests::{GOOD, TestFiles, conversations};
use crate::data::{digest, expand, repeated};

fn batches(bytes: &[u8], block: usize, mut see: impl FnMut(&Batch)) {
    let files = TestFiles::new(&[bytes]);
    let layout = Layout { shape: Shape::Messages, ..Layout::default() };
    let sizes = SizeLimits { block, suspicious: 2 * block, item: 1 << 30 };
    let mut reader = Reader::with_sizes(files.paths.clone(), &layout, sizes).unwrap();
    while let Some(batch) = reader.next_batch().unwrap() {
        see(&batch);
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no such number", |number| number.is_finite()).prop_map(Value::from),
        "[a-zé好😀{}\\[\\]\",:\\\\\n\t ]{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z{\"\\\\]{0,4}", inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A value as JSON, with white space wherever JSON allows it.
fn written(value: &Value, space: &mut impl Iterator<Item = &'static str>, into: &mut String) {
    let mut gap = |into: &mut String| into.push_str(space.next().unwrap());
    match value {
        Value::Array(list) => {
            into.push('[');
            gap(into);
            for (i, value) in list.iter().enumerate() {
                into.push_str(if i == 0 { "" } else { "," });
                into.push_str(space.next().unwrap());
                written(value, space, into);
                into.push_str(space.next().unwrap());
            }
            into.push(']');
        }
        Value::Object(members) => {
            into.push('{');
            gap(into);
            for (i, (key, value)) in members.iter().enumerate() {
                into.push_str(if i == 0 { "" } else { "," });
                into.push_str(space.next().unwrap());
                into.push_str(&Value::from(key.as_str()).to_string());
                into.push_str(space.next().unwrap());
                into.push(':');
                into.push_str(space.next().unwrap());
                written(value, space, into);
                into.push_str(space.next().unwrap());
            }
            into.push('}');
        }
        plain => into.push_str(&plain.to_string()),
    }
}

proptest! {
    #[test]
    fn the_items_are_those_that_serde_json_finds(list in prop::collection::vec(values(), 1..8), lines: bool, block in 1_usize..300,
                                                  spaces in prop::collection::vec(prop::sample::select(vec!["", "", " ", "\n", "\r\n\t", "  "]), 7)) {
        let mut space = spaces.into_iter().cycle();
        let mut text = String::new();
        if lines {
            for value in &list {
                written(&json!({"messages": value}), &mut space, &mut text);
                text.push('\n');
            }
        } else {
            written(&Value::from(list), &mut space, &mut text);
        }
        let list: Vec<Value> = if lines {
            serde_json::Deserializer::from_str(&text).into_iter().map(Result::unwrap).collect()
        } else {
            serde_json::from_str(&text).unwrap()
        };
        let mut found: Vec<Value> = Vec::new();
        let mut index = 0;
        batches(text.as_bytes(), block, |batch| {
            assert_eq!(batch.first_index(), index);
            index += batch.len();
            found.extend(batch.items().map(|item| serde_json::from_slice::<Value>(item).unwrap()));
        });
        prop_assert_eq!(found, list, "{}", text);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\",:a-z0-9\\\\\n é]{0,80}", block in 1_usize..100) {
        let _ = conversations(&bytes, block);
        let _ = conversations(text.as_bytes(), block);
        let _ = conversations(&[b"[", bytes.as_slice()].concat(), block);
        let _ = conversations(&[GOOD.as_bytes(), b"\n{", bytes.as_slice(), b"\n", GOOD.as_bytes()].concat(), block);
    }
}

#[test]
fn a_file_truncated_anywhere_gives_fewer_conversations_or_a_fault() {
    let escaped = GOOD.replace('é', "\\u00e9\\ud83d\\ude00\\\\");
    for (text, lines) in [(format!("[{GOOD}, {escaped},\n{GOOD}]"), false), (format!("{GOOD}\n{escaped}\n\n{GOOD}"), true)] {
        for cut in 0..text.len() {
            for block in [7, 64, 1 << 18] {
                let before = String::from_utf8_lossy(&text.as_bytes()[..cut]);
                let whole = before.matches("\"id\": 7}").count();
                let between = lines && (before.ends_with('\n') || before.ends_with("7}")) && cut > 0;
                match conversations(before.as_bytes(), block) {
                    Ok(found) => assert!(between && found.len() == whole, "{cut}: {found:?}"),
                    Err(fault) => assert!(!between, "{cut}: {fault}"),
                }
            }
        }
        assert_eq!(conversations(text.as_bytes(), 64).unwrap().len(), 3);
    }
}

#[test]
fn compressed_files_give_the_same_conversations() {
    let text: String = (0..5000).map(|i| GOOD.replace("é", &format!("question {i}")) + "\n").collect();
    let (half, rest) = text.split_at(text.len() / 3);
    let gz = |text: &str| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text.as_bytes()).unwrap();
        packer.finish().unwrap()
    };
    let zst = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
    let plain = conversations(text.as_bytes(), SIZE_LIMITS.block).unwrap();
    assert_eq!(plain.len(), 5000);
    let marked = format!("\u{feff}{text}");
    for packed in [[gz(half), gz(rest)].concat(), [zst(half), zst(rest)].concat(), gz(&marked), zst(&marked)] {
        assert_eq!(conversations(&packed, SIZE_LIMITS.block).unwrap(), plain);
        let cut = conversations(&packed[..packed.len() - 5], SIZE_LIMITS.block).unwrap_err();
        assert!(cut.contains("damaged or truncated") && cut.contains("0.json"), "{cut}");
    }
}

#[test]
fn a_truncated_file_is_one_problem_among_the_others_and_ends_there() {
    let bad = GOOD.replace("user", "uesr");
    let text = format!("{bad}\n") + &format!("{GOOD}\n").repeat(20_000);
    let packed = zstd::encode_all(text.as_bytes(), 1).unwrap();
    let files = TestFiles::new(&[&packed[..packed.len() - 5], bad.as_bytes()]);
    let mut reader = Reader::open(files.paths.clone(), &Layout::default()).unwrap();
    let mut problems = Problems::default();
    while let Some(batch) = reader.next_batch().unwrap() {
        batch.conversations(&mut problems);
    }
    let told = problems.into_result(&files.paths).unwrap_err().to_string();
    for wanted in ["0.json", "line 1, column 24, [0].messages[0].role", "damaged or truncated", "1.json"] {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
    assert!(reader.next_batch().unwrap().is_none());
}

#[test]
fn several_files_are_one_data_set() {
    let list = format!("[{GOOD},{GOOD}]");
    let alpaca = r#"{"instruction": "a", "output": "b"}"#;
    let files = TestFiles::new(&[list.as_bytes(), alpaca.as_bytes(), GOOD.as_bytes()]);
    let mut reader = Reader::open(files.paths.clone(), &Layout::default()).unwrap();
    let (mut indices, mut problems) = (Vec::new(), Problems::default());
    while let Some(batch) = reader.next_batch().unwrap() {
        indices.extend(batch.conversations(&mut problems).into_iter().map(|made| (made.index, made.messages[0].content.clone())));
    }
    let wanted = [(0, "é"), (1, "é"), (2, "a"), (3, "é")].map(|(index, text)| (index, text.to_string()));
    assert_eq!((indices.as_slice(), problems.is_empty()), (&wanted[..], true));
    assert_eq!((reader.bytes_done(), reader.bytes_total()), (reader.bytes_total(), (list.len() + alpaca.len() + GOOD.len()) as u64));
}

#[test]
fn paths_and_patterns_and_their_errors() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    for name in ["b.jsonl", "a.jsonl", "c[1].jsonl"] {
        fs::write(at(name), GOOD).unwrap();
    }
    let names = |given: &[String]| {
        expand(given).map(|files| files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect::<Vec<_>>())
    };
    assert_eq!(names(&[at("b.jsonl"), at("[ac]*.jsonl")]).unwrap(), ["b.jsonl", "a.jsonl", "c[1].jsonl"]);
    assert_eq!(names(&[at("c[1].jsonl")]).unwrap(), ["c[1].jsonl"]);
    for (given, wanted) in [
        (vec![at("none.json")], "there is no data set"),
        (vec![at("*.csv")], "no file matches"),
        (vec![at("")], "is a folder; give a JSON file, or a pattern"),
        (vec![at("***")], "not a valid pattern"),
        (vec![], "no data set is given"),
    ] {
        let error = expand(&given).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        assert_eq!(crate::base::error::Error::of(&error).kind, crate::base::error::Kind::Input);
    }
}

#[test]
fn a_file_under_two_names_is_a_warning() {
    let files = TestFiles::new(&[b"abc", b"def"]);
    let [first, second] = [0, 1].map(|i| files.paths[i].clone());
    let dotted = first.parent().unwrap().join(".").join(first.file_name().unwrap());
    let got = repeated(&[first.clone(), second, dotted]);
    assert!(got.len() == 1 && got[0].contains("is given twice (also as ") && got[0].contains("trained on twice"), "{got:?}");
    assert!(repeated(&[first]).is_empty());
}

#[test]
fn the_digest_depends_on_every_byte_and_file_border() {
    let of = |contents: &[&[u8]]| digest(&TestFiles::new(contents).paths).unwrap();
    let whole = of(&[b"abc", b"def"]);
    assert_eq!(whole, of(&[b"abc", b"def"]));
    for other in [&[b"abcd".as_slice(), b"ef"][..], &[b"abcdef"], &[b"def", b"abc"], &[b"abc", b"deg"], &[b"abc", b"def", b""]] {
        assert_ne!(whole, of(other));
    }
}

#[test]
fn memory_does_not_grow_with_the_file() {
    // 300 MB, compressed to save disk space.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.jsonl.zst");
    let block = format!("{GOOD}\n").repeat(10_000);
    let times = 300_000_000 / block.len() + 1;
    let mut packer = zstd::stream::write::Encoder::new(fs::File::create(&path).unwrap(), 1).unwrap();
    (0..times).for_each(|_| packer.write_all(block.as_bytes()).unwrap());
    packer.finish().unwrap();
    let mut reader = Reader::open(vec![path], &Layout::default()).unwrap();
    let (mut items, mut bytes) = (0, 0);
    while let Some(batch) = reader.next_batch().unwrap() {
        items += batch.len();
        bytes += batch.items().map(<[u8]>::len).sum::<usize>();
        assert!(reader.capacity() <= 2 * SIZE_LIMITS.block, "{}", reader.capacity());
    }
    assert_eq!(items, 10_000 * times);
    assert!(bytes > 290_000_000, "{bytes}");
}

#[test]
fn a_text_of_100_megabytes_is_read() {
    let text = format!("[{GOOD},\n{},{GOOD}]", GOOD.replace('é', &"long \\\" {".repeat(11_000_000)));
    let found = conversations(text.as_bytes(), SIZE_LIMITS.block).unwrap();
    assert_eq!((found.len(), found[1].messages[0].content.len()), (3, 88_000_000));
}

#[test]
fn long_white_space_is_not_kept_in_memory() {
    let text = format!("[{GOOD},{}{GOOD}]", " \n".repeat(500_000));
    let mut found = Vec::new();
    batches(text.as_bytes(), 1000, |batch| found.extend(batch.conversations(&mut Problems::default())));
    assert_eq!(found.len(), 2);
    assert_eq!(found[1].messages[0].content, "é");
}

#[test]
fn a_text_of_100_megabytes_is_an_item_like_its_neighbours() {
    let words = "x ".repeat(50_000_000);
    let long = format!(r#"{{"messages": [{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "{words}"}}]}}"#);
    let found = conversations(format!("[{GOOD}, {long}, {GOOD}]").as_bytes(), SIZE_LIMITS.block).unwrap();
    assert_eq!(found.iter().map(|one| one.messages[1].content.len()).collect::<Vec<_>>(), [3, 100_000_000, 3]);
    // Truncated in the middle, it is a fault, not half a conversation.
    let cut = conversations(&format!("[{GOOD}, {long}]").as_bytes()[..50_000_000], SIZE_LIMITS.block).unwrap_err();
    assert!(cut.contains("EOF while parsing a string"), "{cut}");
}
