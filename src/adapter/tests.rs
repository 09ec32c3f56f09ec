use std::path::Path;

use serde_json::{Value, json};

use super::read;
use crate::base::error::{Error, Kind};

/// A safetensors file of zeros.
fn weights(path: &Path, tensors: &[(&str, &[usize])]) {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert((*name).into(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &vec![0; end]].concat();
    std::fs::write(path, bytes).unwrap();
}

/// Two blocks of width 4 with a wider MLP, and a tied output matrix.
fn base(folder: &Path) {
    std::fs::write(folder.join("config.json"), json!({"num_hidden_layers": 2}).to_string()).unwrap();
    let blocks = ["model.layers.0", "model.layers.1"];
    let mut names: Vec<(String, Vec<usize>)> = vec![("model.embed_tokens.weight".into(), vec![10, 4])];
    for block in blocks {
        names.push((format!("{block}.self_attn.q_proj.weight"), vec![4, 4]));
        names.push((format!("{block}.mlp.up_proj.weight"), vec![8, 4]));
        names.push((format!("{block}.input_layernorm.weight"), vec![4]));
    }
    let named: Vec<(&str, &[usize])> = names.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    weights(&folder.join("model.safetensors"), &named);
}

fn config(more: Value) -> Value {
    let mut all = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"]});
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

fn up(prefix: &str, infix: &str) -> Vec<(String, Vec<usize>)> {
    let pair = |block| {
        [("lora_A", vec![2, 4]), ("lora_B", vec![8, 2])]
            .map(|(half, shape)| (format!("{prefix}layers.{block}.mlp.up_proj.{half}{infix}.weight"), shape))
    };
    [pair(0), pair(1)].concat()
}

fn adapter(folder: &Path, config: &Value, tensors: &[(String, Vec<usize>)]) {
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let named: Vec<(&str, &[usize])> = tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    weights(&folder.join("adapter_model.safetensors"), &named);
}

#[test]
fn every_known_form_has_one_canonical_form() {
    for (prefix, infix) in [
        ("base_model.model.model.", ""),
        ("base_model.model.model.", ".default"),
        ("model.", ""),
        ("", ""),
        ("base_model.model.", ""),
        ("base_model.model.model.language_model.", ""),
        ("base_model.model.language_model.model.", ""),
        ("base_model.model.language_model.", ".default"),
        ("base_model.model.model.model.", ""),
    ] {
        let (folder, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        base(model.path());
        let rank = json!({"rank_pattern": {}, "alpha_pattern": {"layers.1.mlp.up_proj": 6}});
        adapter(folder.path(), &config(rank), &up(prefix, infix));
        let found = read(folder.path(), Some(model.path())).unwrap();
        let names: Vec<&str> = found.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let expected = ["0.mlp.up_proj.lora_A", "0.mlp.up_proj.lora_B", "1.mlp.up_proj.lora_A", "1.mlp.up_proj.lora_B"];
        assert_eq!(names, expected.map(|name| format!("base_model.model.model.layers.{name}.weight")), "{prefix}{infix}");
        assert_eq!(found.modules.iter().map(|module| module.scale.to_string()).collect::<Vec<_>>(), ["2", "3"], "{prefix}");
        assert_eq!(found.converted, prefix != "base_model.model.model." || !infix.is_empty(), "{prefix}");
        assert_eq!(found.converted, !found.findings.is_empty(), "{prefix} {:?}", found.findings);
    }
}

#[test]
fn mlx_lm_s_matrices_are_the_transposes() {
    let (folder, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    base(model.path());
    let settings = json!({"fine_tune_type": "lora", "num_layers": 1, "model": "somewhere", "lora_parameters": {"rank": 2, "scale": 20.0, "dropout": 0.0, "keys": ["mlp.up_proj"]}});
    std::fs::write(folder.path().join("adapter_config.json"), settings.to_string()).unwrap();
    let path = folder.path().join("adapters.safetensors");
    weights(&path, &[("model.layers.1.mlp.up_proj.lora_a", &[4, 2]), ("model.layers.1.mlp.up_proj.lora_b", &[2, 8])]);
    let found = read(folder.path(), Some(model.path())).unwrap();
    assert_eq!(found.settings["lora_alpha"], 40);
    assert_eq!(found.settings["target_modules"], json!(["model.layers.1.mlp.up_proj"]));
    assert_eq!(found.modules[0].scale.to_string(), "20");
    let shapes: Vec<(&[usize], bool)> = found.tensors.iter().map(|tensor| (tensor.shape.as_slice(), tensor.transpose)).collect();
    assert_eq!(shapes, [(&[2, 4][..], true), (&[8, 2][..], true)]);
    weights(&path, &[("model.layers.0.mlp.up_proj.lora_a", &[4, 2]), ("model.layers.0.mlp.up_proj.lora_b", &[2, 8])]);
    assert!(read(folder.path(), Some(model.path())).unwrap_err().to_string().contains("model.layers.1.mlp.up_proj"));
}

#[test]
fn what_fits_nothing_or_is_missing_is_refused_with_its_name() {
    let model = tempfile::tempdir().unwrap();
    base(model.path());
    let whole = up("base_model.model.model.", "");
    let with = |name: &str, shape: &[usize]| [&whole[..], &[(name.to_string(), shape.to_vec())]].concat();
    for (more, tensors, said) in [
        (json!({}), up("base_model.model.model.decoder.", ""), "decoder.layers.0.mlp.up_proj.lora_A"),
        (json!({}), with("base_model.model.model.visual.merger.lora_A.weight", &[2, 4]), "visual.merger"),
        (json!({}), whole[..2].to_vec(), "model.layers.1.mlp.up_proj"),
        (json!({}), whole[..3].to_vec(), "half of the pair of model.layers.1.mlp.up_proj"),
        (json!({"target_modules": ["up_proj", "q_proj"]}), whole.clone(), "model.layers.0.self_attn.q_proj"),
        (json!({"r": 4}), whole.clone(), "ranks 2 and 2, but its configuration says 4"),
        (json!({"modules_to_save": ["lm_head"]}), whole.clone(), "modules_to_save"),
        (json!({}), with("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", &[0]), "ZeRO-3"),
        (json!({"lora_alpha": null}), whole.clone(), "lora_alpha"),
        (json!({"peft_type": null}), whole.clone(), "peft_type"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        adapter(folder.path(), &config(more), &tensors);
        let error = read(folder.path(), Some(model.path())).unwrap_err();
        assert_eq!(Error::of(&error).kind, Kind::Input, "{error}");
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let wide: Vec<_> =
        whole.iter().map(|(name, shape)| (name.clone(), if name.contains("lora_A") { vec![2, 6] } else { shape.clone() })).collect();
    adapter(folder.path(), &config(json!({})), &wide);
    assert!(read(folder.path(), Some(model.path())).unwrap_err().to_string().contains("8 x 6"), "the shapes differ");
}

#[test]
fn a_copy_of_the_base_s_own_weight_is_left_out_with_a_word() {
    let (folder, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    base(model.path());
    let mut tensors = up("base_model.model.model.", "");
    tensors.push(("base_model.model.model.embed_tokens.weight".into(), vec![10, 4]));
    adapter(folder.path(), &config(json!({})), &tensors);
    let found = read(folder.path(), Some(model.path())).unwrap();
    assert_eq!(found.tensors.len(), 4);
    assert!(found.findings[0].contains("embed_tokens"), "{:?}", found.findings);
    tensors.last_mut().unwrap().1 = vec![12, 4];
    adapter(folder.path(), &config(json!({})), &tensors);
    assert_eq!(read(folder.path(), Some(model.path())).unwrap().tensors.len(), 5, "another size is another weight");
}
