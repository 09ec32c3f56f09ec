//! Reads an adapter's folder into its canonical form.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::adapter::base_tensors::BaseTensors;
use crate::adapter::forms::{NameForm, text_name};
use crate::adapter::mlx;
use crate::adapter::settings::LoraSettings;
use crate::adapter::tensor_name::{AdapterTensorName, TensorRole};
use crate::base::error;
use crate::base::numbers::counted;
use crate::gguf;

pub(super) const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// An adapter in canonical form.
#[derive(Debug, Serialize)]
pub(crate) struct AdapterReading {
    /// PEFT's adapter_config.json.
    pub settings: Map<String, Value>,
    /// Whether names or settings differ from the files, so that a copy of the files would not be the canonical form.
    pub converted: bool,
    /// The low-rank pairs.
    pub modules: Vec<AdaptedModule>,
    /// Every tensor that the adapter has.
    pub tensors: Vec<AdapterTensor>,
    /// What was converted or left out, as sentences for the log.
    pub findings: Vec<String>,
}

/// A low-rank pair.
#[derive(Debug, Serialize)]
pub(crate) struct AdaptedModule {
    pub module: String,
    pub rank: usize,
    pub alpha: f64,
    /// What B · A is multiplied by.
    pub scale: f64,
}

/// A tensor under its canonical name, and its place.
#[derive(Debug, Serialize)]
pub(crate) struct AdapterTensor {
    pub name: String,
    pub file: PathBuf,
    pub stored: String,
    /// The canonical shape.
    pub shape: Vec<usize>,
    /// Whether the stored matrix is the transpose.
    pub transpose: bool,
}

/// A tensor of the file with what its name says.
struct NamedTensor {
    stored: String,
    shape: Vec<usize>,
    module: String,
    role: TensorRole,
}

/// Reads the adapter in `folder`. With the folder of its base, names, shapes and completeness are checked against the base.
///
/// # Errors
/// Kind `input` if the adapter does not fit its base, itself or its configuration; kind `model` if a file cannot be read.
pub(crate) fn read(folder: &Path, base: Option<&Path>) -> Result<AdapterReading> {
    let place = folder.join(CONFIG);
    let text = std::fs::read(&place).with_context(|| format!("{} cannot be read", place.display()))?;
    let config: Map<String, Value> = serde_json::from_slice(&text)
        .map_err(|cause| error::model(format!("{} is not a valid JSON object ({cause}); copy the adapter again", place.display())))?;
    let mlx = mlx::is_mlx(&config);
    let file = folder.join(if mlx { mlx::WEIGHTS } else { WEIGHTS });
    if !file.is_file() {
        return Err(error::model(format!(
            "adapter {} has no {}; copy it again or train it again",
            folder.display(),
            file.file_name().unwrap_or_default().display()
        )));
    }
    let base_tensors = base.map(BaseTensors::read).transpose()?.flatten();
    let mut reader = AdapterReader {
        folder,
        file,
        base: base_tensors,
        base_name: base.map(|base| base.display().to_string()).unwrap_or_default(),
        findings: Vec::new(),
        mlx,
    };
    let peft_type = config.get("peft_type").and_then(Value::as_str).unwrap_or_default().to_uppercase();
    if !mlx && peft_type.is_empty() {
        return Err(error::input(format!(
            "{} names no peft_type and is not mlx-lm's, so the method of the adapter is unknown; copy the file of its training again",
            place.display()
        )));
    }
    if !mlx && peft_type != "LORA" {
        return reader.other_method(config);
    }
    let settings = if mlx { mlx::peft_settings(&config, &place.display().to_string())? } else { config.clone() };
    let settings = LoraSettings::new(settings, &place.display().to_string())?;
    reader.lora(&config, settings)
}

struct AdapterReader<'a> {
    folder: &'a Path,
    file: PathBuf,
    base: Option<BaseTensors>,
    base_name: String,
    findings: Vec<String>,
    mlx: bool,
}

impl AdapterReader<'_> {
    fn refuse<T>(&self, why: impl std::fmt::Display) -> Result<T> {
        Err(error::input(format!("adapter {} {why}", self.folder.display())))
    }

    /// An adapter of another method than LoRA: its tensors as they are. PEFT decides whether they fit.
    fn other_method(&mut self, settings: Map<String, Value>) -> Result<AdapterReading> {
        let tensors = gguf::tensors(&self.file)?.into_iter().map(|tensor| AdapterTensor {
            name: tensor.name.clone(),
            file: self.file.clone(),
            stored: tensor.name,
            shape: tensor.shape,
            transpose: false,
        });
        let tensors = tensors.collect();
        Ok(AdapterReading { settings, converted: false, modules: Vec::new(), tensors, findings: Vec::new() })
    }

    fn lora(&mut self, config: &Map<String, Value>, mut settings: LoraSettings) -> Result<AdapterReading> {
        let named = self.named_tensors()?;
        let form = self.form(&named)?;
        let canonical = |module: &str| {
            form.canonical(module).map_or_else(|| text_name(module), |name| if self.base.is_some() { name } else { text_name(&name) })
        };
        let mut halves: BTreeMap<String, Vec<&NamedTensor>> = BTreeMap::new();
        for tensor in &named {
            if matches!(tensor.role, TensorRole::A | TensorRole::B | TensorRole::EmbeddingA | TensorRole::EmbeddingB) {
                halves.entry(tensor.module.clone()).or_default().push(tensor);
            }
        }
        let mut modules = Vec::new();
        for (original, pair) in &halves {
            modules.push(self.module(&settings, original, canonical(original), pair)?);
        }
        self.check_complete(config, &settings, form, &modules)?;
        let saved: BTreeSet<String> = self.saved_modules(&settings, &named)?;

        let paired: BTreeSet<&str> = modules.iter().map(|module| module.module.as_str()).collect();
        let mut tensors = Vec::new();
        for tensor in &named {
            let module = canonical(&tensor.module);
            let name = match &tensor.role {
                TensorRole::A => format!("{module}.lora_A.weight"),
                TensorRole::B => format!("{module}.lora_B.weight"),
                TensorRole::EmbeddingA => format!("{module}.lora_embedding_A"),
                TensorRole::EmbeddingB => format!("{module}.lora_embedding_B"),
                TensorRole::Magnitude => format!("{module}.lora_magnitude_vector"),
                TensorRole::BiasOfB => format!("{module}.lora_B.bias"),
                TensorRole::Other(rest) => format!("{module}.{rest}"),
                TensorRole::Whole { original: true, .. } => {
                    self.findings.push(format!("{} is PEFT's copy of the base's own weight and is not used", tensor.stored));
                    continue;
                }
                TensorRole::Whole { parameter, .. } => {
                    let layer = if paired.contains(module.as_str()) && !saved.contains(&module) { ".base_layer" } else { "" };
                    format!("{module}{layer}.{parameter}")
                }
            };
            if matches!(tensor.role, TensorRole::Whole { .. }) && !saved.contains(&module) && self.is_the_bases_own(tensor, &module)? {
                self.findings.push(format!("{} equals the base's own weight and is not needed", tensor.stored));
                continue;
            }
            let transpose = self.mlx && matches!(tensor.role, TensorRole::A | TensorRole::B);
            let shape = if transpose { tensor.shape.iter().rev().copied().collect() } else { tensor.shape.clone() };
            tensors.push(AdapterTensor {
                name: format!("base_model.model.{name}"),
                file: self.file.clone(),
                stored: tensor.stored.clone(),
                shape,
                transpose,
            });
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(twice) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return self.refuse(format_args!(
                "holds {} and {}, which are the same tensor; it seems to consist of several adapters: save them separately",
                twice[0].stored, twice[1].stored
            ));
        }

        let renamed = halves.keys().any(|original| canonical(original) != *original);
        if renamed || self.mlx {
            settings = explicit(settings, &modules);
        }
        if renamed {
            let what = if form == NameForm::CANONICAL { "with the names of a multimodal model".to_string() } else { form.describe() };
            self.findings.push(format!("its tensors are named {what}; they are taken as those of the text model"));
        }
        if self.mlx {
            self.findings.push("it is mlx-lm's; it is read as PEFT's".into());
        }
        let same_names = tensors.len() == named.len() && tensors.iter().all(|tensor| tensor.name == tensor.stored);
        Ok(AdapterReading {
            settings: settings.json,
            converted: renamed || self.mlx || !same_names,
            modules,
            tensors,
            findings: std::mem::take(&mut self.findings),
        })
    }

    /// The tensors of the file with what their names say. Refuses names and shapes that no LoRA adapter has.
    fn named_tensors(&mut self) -> Result<Vec<NamedTensor>> {
        let mut stored = gguf::tensors(&self.file)?;
        if stored.is_empty() {
            return self.refuse("holds no tensors; copy it again or train it again");
        }
        stored.sort_by(|a, b| a.name.cmp(&b.name));
        let (mut named, mut names, mut unprefixed) = (Vec::new(), BTreeSet::new(), false);
        for tensor in stored {
            let (module, role) = if self.mlx {
                match mlx::parse(&tensor.name) {
                    Some(found) => found,
                    None => {
                        return self.refuse(format_args!(
                            "holds {}, which is not part of a low-rank pair of mlx-lm; fuse it with mlx_lm.fuse and give the fused model",
                            tensor.name
                        ));
                    }
                }
            } else {
                let parsed = AdapterTensorName::parse(&tensor.name);
                unprefixed |= !parsed.prefixed;
                names.extend(parsed.adapter);
                (parsed.module, parsed.role)
            };
            let pair = matches!(role, TensorRole::A | TensorRole::B | TensorRole::EmbeddingA | TensorRole::EmbeddingB);
            if pair && (tensor.shape.len() != 2 || tensor.shape.contains(&0)) {
                return self.refuse(format_args!(
                    "holds {} of shape {:?}, which is not a matrix; the weights were saved in parts (DeepSpeed ZeRO-3 or FSDP) or are damaged: \
                     save it again from the gathered model",
                    tensor.name, tensor.shape
                ));
            }
            named.push(NamedTensor { stored: tensor.name, shape: tensor.shape, module, role });
        }
        if names.len() > 1 {
            let names: Vec<String> = names.into_iter().collect();
            return self.refuse(format_args!("holds several adapters ({}) in one file; save them separately", names.join(", ")));
        }
        if let Some(name) = names.first() {
            self.findings.push(format!("its tensors carry the adapter's name {name}, which is left out"));
        }
        if unprefixed && !self.mlx {
            self.findings.push("its tensors lack PEFT's prefix base_model.model., which is added".into());
        }
        Ok(named)
    }

    /// The form of names with which all modules are in the base.
    fn form(&self, named: &[NamedTensor]) -> Result<NameForm> {
        let modules: BTreeSet<&str> = named.iter().map(|tensor| tensor.module.as_str()).collect();
        let Some(base) = &self.base else {
            let bare = modules.iter().all(|module| ["layers.", "embed_tokens"].iter().any(|start| module.starts_with(start)));
            return Ok(if bare { NameForm::all("model.").nth(4).unwrap_or(NameForm::CANONICAL) } else { NameForm::CANONICAL });
        };
        let strangers = |form: NameForm| -> Vec<&str> {
            let fits = |module: &&str| form.canonical(module).is_some_and(|name| base.has_module(&name));
            modules.iter().copied().filter(|module| !fits(module)).collect()
        };
        let (form, strange) = NameForm::all(base.root())
            .map(|form| (form, strangers(form)))
            .min_by_key(|(_, strange)| strange.len())
            .expect("at least one form");
        if strange.is_empty() {
            return Ok(form);
        }
        let names: Vec<&str> =
            named.iter().filter(|tensor| strange.contains(&tensor.module.as_str())).map(|tensor| tensor.stored.as_str()).collect();
        self.refuse(format_args!(
            "does not fit its base {}: {} of its {} belong to no layer of it ({}); give the model that it was trained on as base_model",
            self.base_name,
            names.len(),
            counted(named.len() as u64, "tensor"),
            some(&names)
        ))
    }

    /// Checks a pair against itself, the settings and the base.
    fn module(&self, settings: &LoraSettings, original: &str, module: String, pair: &[&NamedTensor]) -> Result<AdaptedModule> {
        let half = |roles: [TensorRole; 2]| pair.iter().find(|tensor| roles.contains(&tensor.role)).copied();
        let (a, b) = (half([TensorRole::A, TensorRole::EmbeddingA]), half([TensorRole::B, TensorRole::EmbeddingB]));
        let (Some(a), Some(b)) = (a, b) else {
            return self.refuse(format_args!("has only half of the pair of {original}; copy it again or train it again"));
        };
        let sides = |tensor: &NamedTensor| if self.mlx { (tensor.shape[1], tensor.shape[0]) } else { (tensor.shape[0], tensor.shape[1]) };
        let ((rank, inputs), (outputs, rank_of_b)) = (sides(a), sides(b));
        let wanted = settings.rank(original)?;
        let fused = module.contains("experts");
        if rank != rank_of_b || (rank != wanted && !fused && !settings.on("use_qalora")) {
            return self.refuse(format_args!(
                "has a pair of {original} of ranks {rank} and {rank_of_b}, but its configuration says {wanted}; the weights belong to another \
                 adapter_config.json"
            ));
        }
        let embedding = a.role == TensorRole::EmbeddingA;
        let (rows, columns) = if embedding { (inputs, outputs) } else { (outputs, inputs) };
        if let Some(matrix) = self.base.as_ref().and_then(|base| base.matrix(&module))
            && matrix != (rows, columns)
            && matrix != (columns, rows)
            && !settings.on("use_qalora")
            && !(embedding || module.ends_with("lm_head"))
        {
            return self.refuse(format_args!(
                "does not fit its base {}: its pair of {original} is for a matrix of {rows} x {columns}, and the base's has {} x {}; give the model \
                 that it was trained on as base_model",
                self.base_name, matrix.0, matrix.1
            ));
        }
        Ok(AdaptedModule { module, rank, alpha: settings.alpha(original)?, scale: settings.scale(original)? })
    }

    /// Refuses an adapter that lacks the pair of a module that its configuration names.
    fn check_complete(
        &self,
        config: &Map<String, Value>,
        settings: &LoraSettings,
        form: NameForm,
        modules: &[AdaptedModule],
    ) -> Result<()> {
        let Some(base) = &self.base else { return Ok(()) };
        let own: BTreeSet<&str> = modules.iter().map(|module| module.module.as_str()).collect();
        if settings.json.get("target_parameters").is_some_and(|parameters| !parameters.is_null()) && own.is_empty() {
            return Ok(());
        }
        let layers = config_layers(base);
        let mut missing = Vec::new();
        for module in base.adaptable().filter(|module| !own.contains(module)) {
            let original = form.original(module);
            let target = if self.mlx { mlx::is_target(config, module, layers) } else { settings.is_target(&original)? };
            if target == Some(true) {
                missing.push(original);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = missing.iter().map(String::as_str).collect();
        self.refuse(format_args!(
            "is incomplete: its configuration adapts {} for which it has no weights ({}); copy it again or train it again",
            counted(names.len() as u64, "layer"),
            some(&names)
        ))
    }

    /// The canonical names of the modules that `modules_to_save` names and that are there.
    fn saved_modules(&self, settings: &LoraSettings, named: &[NamedTensor]) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for wanted in settings.json.get("modules_to_save").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            let own = |tensor: &&NamedTensor| {
                matches!(&tensor.role, TensorRole::Whole { original: false, .. }) && tensor.module.split('.').any(|part| part == wanted)
                    || tensor.module == wanted
            };
            let modules: Vec<String> = named.iter().filter(own).map(|tensor| text_name(&tensor.module)).collect();
            let known = !modules.is_empty();
            found.extend(modules);
            // PEFT names a module twice if it was asked to keep two of them equal.
            if !known && !found.iter().any(|module| module == wanted || module.split('.').any(|part| part == wanted)) {
                return self.refuse(format_args!(
                    "is incomplete: its configuration says that it holds the module {wanted} (modules_to_save), and it does not; copy it again"
                ));
            }
        }
        Ok(found)
    }

    /// Whether a whole tensor has the bytes of the base's.
    fn is_the_bases_own(&self, tensor: &NamedTensor, module: &str) -> Result<bool> {
        let TensorRole::Whole { parameter, .. } = &tensor.role else { return Ok(false) };
        let Some((file, stored)) = self.base.as_ref().and_then(|base| base.places.get(&format!("{module}.{parameter}"))) else {
            return Ok(false);
        };
        gguf::same_tensor((&self.file, &tensor.stored), (file, stored))
    }
}

/// The number of blocks that have matrices.
fn config_layers(base: &BaseTensors) -> Option<usize> {
    base.adaptable()
        .filter_map(|module| module.split_once(".layers.")?.1.split('.').next()?.parse::<usize>().ok())
        .max()
        .map(|last| last + 1)
}

/// Settings that name every module with its rank and alpha, since the patterns are for other names.
fn explicit(mut settings: LoraSettings, modules: &[AdaptedModule]) -> LoraSettings {
    let (rank, alpha) = (settings.json.get("r").cloned(), settings.json.get("lora_alpha").cloned());
    let names = modules.iter().map(|module| Value::from(module.module.clone())).collect::<Vec<_>>();
    let differing = |of: &dyn Fn(&AdaptedModule) -> f64, usual: Option<&Value>| {
        let own = modules.iter().filter(|module| usual.and_then(Value::as_f64) != Some(of(module)));
        own.map(|module| (module.module.clone(), number(of(module)))).collect::<Map<String, Value>>()
    };
    let ranks = differing(&|module| module.rank as f64, rank.as_ref());
    let alphas = differing(&|module| module.alpha, alpha.as_ref());
    for (name, value) in [("target_modules", names.into()), ("rank_pattern", ranks.into()), ("alpha_pattern", alphas.into())] {
        settings.json.insert(name.into(), value);
    }
    for name in ["layers_to_transform", "layers_pattern", "exclude_modules"] {
        settings.json.insert(name.into(), Value::Null);
    }
    settings
}

fn number(value: f64) -> Value {
    if value.fract() == 0.0 { (value as i64).into() } else { value.into() }
}

/// The first names of a list.
fn some(names: &[&str]) -> String {
    format!("{}{}", names.iter().take(3).copied().collect::<Vec<_>>().join(", "), if names.len() > 3 { ", …" } else { "" })
}
