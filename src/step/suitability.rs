//! Whether a step can work with its models and on this machine, as far as that is known without Python: from the names of the models, their
//! configurations, and the devices.
//!
//! Python checks again what only it can know: a hub name that is not downloaded, a GPU that torch does not see.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value};

use crate::adapter::check_continued_folder;
use crate::base::error;
use crate::base::error::did_you_mean;
use crate::estimate::{is_adapter, layer_names, positions, read_config};
use crate::gguf::{TENSOR_TYPE, describe};
use crate::params::conflicts::fp16_needs_cuda;
use crate::params::interface::Interface;
use crate::params::lora_defaults::TARGET_MODULES;
use crate::params::param::Param;
use crate::params::param_type::ParamType;
use crate::params::similar_value::similar_value;
use crate::python::torchrun_place;
use crate::session::artifact::{TINY, names_in};
use crate::session::hub_names::{check_downloaded, downloaded};
use crate::step::devices::{check_device, may_have_gpu};
use crate::step::request::Request;

/// Positions of `builtin:tiny`, as in `models/tiny.py`. A test compares them.
pub(crate) const TINY_POSITIONS: u64 = 2048;

/// What a model's name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ModelForm {
    Whole,
    Adapter,
    GgufFile,
    /// A folder that is neither.
    OtherFolder,
    /// A file of another kind.
    NoGguf,
    /// A hub name that is not downloaded whole.
    HubName,
}

/// A model or adapter of a step.
struct Artifact<'a> {
    /// As the user gave it.
    given: &'a str,
    folder: PathBuf,
    form: ModelForm,
}

/// Refuses a step that cannot work. `found` are its resolved models, by parameter; those that an earlier step will make are absent.
///
/// # Errors
/// Kind `usage`: it is the wrong model or parameter for this task. Kind `model`: it is no model. Kind `input`: the machine or the model does
/// not have what a parameter names.
pub(super) fn check(request: &Request, params: &Map<String, Value>, found: &[(&'static Param, Vec<String>)]) -> Result<()> {
    let interface = request.interface;
    let artifact = |name: &str| {
        let (_, resolved) = found.iter().find(|(param, _)| param.name == name)?;
        Some(Artifact::new(names_in(params.get(name)).next()?, resolved.first()?))
    };
    let model = artifact("model");
    check_forms(request, params, found)?;
    check_device(params, interface)?;
    match request.task.name {
        "finetune_full" | "finetune_lora" => {
            check_training(params, interface)?;
            if let Some(model) = &model {
                check_trained(model, request.task.name, params, interface)?;
                check_target_modules(model, params, interface)?;
            }
            if let Some(Artifact { given, form: ModelForm::Whole, .. }) = artifact("checkpoint_lora") {
                let (checkpoint, model) = (interface.spell("checkpoint_lora"), interface.spell("model"));
                return Err(error::usage(format!("{checkpoint}: {given} is a whole model, not a LoRA adapter; give it as {model}")));
            }
            if let Some(checkpoint) = artifact("checkpoint_lora").filter(|_| params.get("checkpoint_mode") == Some(&"continue".into())) {
                check_continued_folder(checkpoint.given, &checkpoint.folder, params)?;
            }
        }
        "merge" | "flatten" | "convert_lora_to_gguf" => {
            let adapter = model.or_else(|| artifact("adapter"));
            if let Some(Artifact { given, form: ModelForm::Whole, .. }) = adapter {
                return Err(error::usage(format!("{given} is a whole model; give an adapter, such as the output of finetune_lora")));
            }
            return adapter.filter(|_| request.task.name == "convert_lora_to_gguf").map_or(Ok(()), |adapter| check_gguf_adapter(&adapter));
        }
        "convert_model_to_gguf" => check_tensor_types(params, interface)?,
        "quantize_model" => {
            if let Some(model) = model.as_ref().filter(|model| model.form == ModelForm::Whole && is_quantized(&model.config())) {
                let given = model.given;
                return Err(error::usage(format!("{given} is already quantized; give the plain model from which it was made")));
            }
        }
        "inference" => {
            if let Some(model) = &model {
                check_answering(model, params, interface)?;
            }
        }
        _ => {}
    }
    match &model {
        Some(Artifact { given, form: ModelForm::Whole, .. }) if params.get("base_model").is_some_and(|base| !base.is_null()) => {
            let base = interface.spell("base_model");
            Err(error::usage(format!("{base} is the base of an adapter, but {given} is a whole model; leave it out")))
        }
        _ => Ok(()),
    }
}

impl<'a> Artifact<'a> {
    fn new(given: &'a str, resolved: &str) -> Artifact<'a> {
        let folder = downloaded(resolved).filter(|_| !Path::new(resolved).exists()).unwrap_or_else(|| PathBuf::from(resolved));
        let form = match &folder {
            _ if resolved == TINY => ModelForm::Whole,
            path if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) => ModelForm::GgufFile,
            path if is_adapter(path) => ModelForm::Adapter,
            path if path.join("config.json").is_file() => ModelForm::Whole,
            _ if Path::new(resolved).is_dir() => ModelForm::OtherFolder,
            _ if Path::new(resolved).is_file() => ModelForm::NoGguf,
            _ => ModelForm::HubName,
        };
        Artifact { given, folder, form }
    }

    /// Null if it is not known.
    fn config(&self) -> Value {
        read_config(&self.folder).unwrap_or_default()
    }
}

fn is_quantized(config: &Value) -> bool {
    config.get("quantization_config").is_some_and(|quantization| !quantization.is_null())
}

/// What any training needs of the machine and the process.
fn check_training(params: &Map<String, Value>, interface: Interface) -> Result<()> {
    let place = torchrun_place();
    if let Some(place) = place.filter(|place| place.size != place.local_size) {
        return Err(error::usage(format!(
            "this is one of {} processes, {} of them on this machine, but the processes of a training must be on one machine; start them there",
            place.size, place.local_size
        )));
    }
    let processes = std::env::var("WORLD_SIZE").ok().and_then(|count| count.trim().parse::<u32>().ok());
    if let Some(count) = processes.filter(|count| *count > 1 && place.is_none()) {
        return Err(error::usage(format!(
            "this is one of {count} processes (WORLD_SIZE), but RANK, MASTER_ADDR and MASTER_PORT do not say which, as torchrun does: each of \
             them would open the session. Start pyrust-nn by torchrun, or with {} and without a launcher, or unset WORLD_SIZE",
            interface.spell("nproc_per_node")
        )));
    }
    if params["dtype"] == "fp16" && params["device"] == "auto" && !may_have_gpu() {
        return Err(fp16_needs_cuda(interface));
    }
    Ok(())
}

/// Refuses folders that hold no model or adapter, and Hub names that are not downloaded while the network must not be used.
fn check_forms(request: &Request, params: &Map<String, Value>, found: &[(&'static Param, Vec<String>)]) -> Result<()> {
    for (param, resolved) in found.iter().filter(|(param, _)| param.value_type != ParamType::Imatrix) {
        for (given, resolved) in names_in(params.get(param.name)).zip(resolved) {
            match Artifact::new(given, resolved).form {
                ModelForm::OtherFolder if param.value_type == ParamType::Adapter || ["merge", "flatten"].contains(&request.task.name) => {
                    return Err(error::model(format!(
                        "{given} has no adapter_config.json, so it is not a LoRA adapter; give the folder that has one"
                    )));
                }
                ModelForm::NoGguf if param.value_type == ParamType::Candidate => {
                    return Err(error::input(format!(
                        "{resolved} is not a GGUF file; give a .gguf file, a folder with a model or an adapter, or a session's step"
                    )));
                }
                // A folder with GGUF files is a candidate too.
                ModelForm::OtherFolder if param.value_type != ParamType::Candidate || !has_gguf(Path::new(resolved)) => {
                    return Err(error::model(format!(
                        "{given} has no config.json, so it is not a model; {}",
                        inner_model(given, resolved)
                    )));
                }
                ModelForm::HubName => check_downloaded(resolved, request.is_offline())?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn has_gguf(folder: &Path) -> bool {
    let is_gguf = |path: PathBuf| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| is_gguf(entry.path()))
}

/// What to do instead of giving a folder without a model: give one in it.
fn inner_model(given: &str, folder: &str) -> String {
    let is_model = |path: &PathBuf| path.join("config.json").is_file() || is_adapter(path);
    let mut inner: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).filter(is_model).collect();
    inner.sort();
    match inner.first().and_then(|path| path.file_name()) {
        Some(name) => format!("did you mean {}?", Path::new(given).join(name).display()),
        None => "give the folder that has one".into(),
    }
}

/// Whether the model has layers of the names that LoRA is to adapt, as far as its files tell. Only the last part of each name is compared,
/// because loading renames what is before it.
fn check_target_modules(model: &Artifact<'_>, params: &Map<String, Value>, interface: Interface) -> Result<()> {
    let known = if model.given == TINY { Some(tiny_layers()) } else { layer_names(&model.folder) };
    let last = |target: &str| target.rsplit('.').next().unwrap_or_default().to_string();
    let mut targets = names_in(params.get("target_modules"));
    let (Some(known), given) = (known, model.given) else { return Ok(()) };
    match targets.find(|target| !known.contains(&last(target))) {
        Some(unknown) => {
            let near = did_you_mean(&last(unknown), known.iter().map(String::as_str)).map(|near| format!("; did you mean {near}?"));
            Err(error::input(format!(
                "{}: {given} has no layer {unknown:?} that LoRA can adapt; it has {}{}",
                interface.spell("target_modules"),
                known.join(", "),
                near.unwrap_or_default()
            )))
        }
        None => Ok(()),
    }
}

/// The layers of `builtin:tiny`, sorted. A test compares them.
fn tiny_layers() -> Vec<String> {
    let mut names: Vec<String> = TARGET_MODULES.into_iter().chain(["embed_tokens", "lm_head"]).map(String::from).collect();
    names.sort();
    names
}

/// Whether a GGUF file can hold the adapter, as far as its folder says.
fn check_gguf_adapter(adapter: &Artifact<'_>) -> Result<()> {
    let given = adapter.given;
    if adapter.folder.join("parents").is_dir() {
        return Err(error::input(format!(
            "{given} cannot be a GGUF adapter: it is stacked on others, and a file holds one; join them first (task flatten)"
        )));
    }
    let settings = std::fs::read(adapter.folder.join("adapter_config.json")).ok();
    let settings: Value = settings.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    if settings["use_dora"] == true {
        return Err(error::input(format!(
            "{given} cannot be a GGUF adapter: it has magnitudes of its own (DoRA), which llama.cpp does not support; merge it into its base \
             (task merge) and convert the result"
        )));
    }
    Ok(())
}

/// Whether the task can train this model.
fn check_trained(model: &Artifact<'_>, task: &str, params: &Map<String, Value>, interface: Interface) -> Result<()> {
    let given = model.given;
    let (named, checkpoint, mode) = (interface.spell("model"), interface.spell("checkpoint_lora"), interface.spell("checkpoint_mode"));
    match (model.form, task) {
        (ModelForm::Adapter, "finetune_full") => {
            return Err(error::usage(format!(
                "{given} is a LoRA adapter, which has no weights of its own to fine-tune in full; merge it first (task merge) and give the \
                 merged folder as {named}, or continue it with finetune_lora and {checkpoint}"
            )));
        }
        (ModelForm::Adapter, _) => {
            return Err(error::usage(format!(
                "{given} is itself a LoRA adapter; to continue training it, give its base as {named} and the adapter as {checkpoint} \
                 ({mode} stack trains a new adapter on top of it), or merge it first (task merge)"
            )));
        }
        _ => {}
    }
    let config = model.config();
    if task == "finetune_full" && is_quantized(&config) {
        return Err(error::usage(format!(
            "{given} is quantized, and quantized weights cannot be trained; give the model from which it was quantized, or train an adapter \
             on it with finetune_lora"
        )));
    }
    let limit = if given == TINY { Some(TINY_POSITIONS) } else { positions(&config) };
    let longest = params["max_length"].as_u64().unwrap_or_default();
    match limit {
        Some(limit) if longest > limit => {
            let max_length = interface.spell("max_length");
            Err(error::usage(format!(
                "{max_length} {longest} exceeds the {limit} positions (max_position_embeddings) of {given}; set {max_length} to {limit} or less"
            )))
        }
        _ => Ok(()),
    }
}

/// Whether the types that `tensor_type` gives are types of tensors.
fn check_tensor_types(params: &Map<String, Value>, interface: Interface) -> Result<()> {
    let given = params.get("tensor_type").and_then(Value::as_object).into_iter().flatten();
    match given.into_iter().find(|(_, name)| TENSOR_TYPE.accept((*name).clone()).is_none()) {
        Some((pattern, name)) => {
            let (parameter, types) = (interface.spell("tensor_type"), TENSOR_TYPE.expected());
            let near = similar_value(TENSOR_TYPE, name).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            Err(error::usage(format!("{parameter} maps {pattern:?} to {name}; a type must be {types}{near}")))
        }
        None => Ok(()),
    }
}

/// Whether every given parameter has a meaning for what answers: llama.cpp or transformers.
fn check_answering(model: &Artifact<'_>, params: &Map<String, Value>, interface: Interface) -> Result<()> {
    let given = |name: &&str| params.get(*name).is_some_and(|value| !value.is_null() && value != "auto");
    let (of_the_other, needs): (&[&str], _) = match model.form {
        ModelForm::GgufFile if describe(&model.folder, false).is_ok_and(|header| header["keys"]["general.type"] == "adapter") => {
            let (path, adapter) = (model.folder.display(), interface.spell("adapter"));
            return Err(error::input(format!("{path} is an adapter; give its base's GGUF file as the model, and this one as {adapter}")));
        }
        ModelForm::GgufFile => (&["base_model", "dtype"], "a folder, and the model is a GGUF file"),
        _ => (&["adapter", "adapter_scale"], "a GGUF file, and the model is a folder"),
    };
    match of_the_other.iter().find(|name| given(name)) {
        Some(name) => Err(error::usage(format!("{} is for {needs}; leave it out", interface.spell(name)))),
        None => Ok(()),
    }
}
