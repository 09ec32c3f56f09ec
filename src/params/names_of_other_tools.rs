//! The names of other tools: in suggestions, in `init --from`, and on the page for people who come from them (docs/other-tools.md).
//!
//! Sources: LLaMA-Factory `src/llamafactory/hparams`, Axolotl `src/axolotl/utils/schemas`, Unsloth `unsloth_cli/config.py`, mlx-lm
//! `mlx_lm/examples/lora_config.yaml`.

use crate::base::error::did_you_mean;

/// A tool with configuration files that `init --from` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    LlamaFactory,
    Axolotl,
    Unsloth,
    MlxLm,
}

use Tool::{Axolotl, LlamaFactory, MlxLm, Unsloth};

impl Tool {
    pub(crate) const ALL: [Tool; 4] = [LlamaFactory, Axolotl, Unsloth, MlxLm];

    pub(crate) fn name(self) -> &'static str {
        match self {
            LlamaFactory => "LLaMA-Factory",
            Axolotl => "Axolotl",
            Unsloth => "Unsloth",
            MlxLm => "mlx-lm",
        }
    }
}

/// How a value of theirs becomes ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conversion {
    Same,
    /// The method of fine-tuning: the task, and `load_in_4bit` or `use_dora` with it.
    Method,
    /// Files, or names of data sets.
    Data,
    EvalData,
    /// A fraction of the data; a number of samples is not converted.
    Fraction,
    /// true and false become on and off.
    OnOff,
    /// At most so many samples of each data set.
    MaxRows,
    Optimizer,
    Scheduler,
    /// Names of layers: a list, a text with commas, or "all", which is our default.
    Modules,
    /// 4 becomes true.
    FourBit,
    /// A text such as "unsloth" becomes true.
    Checkpointing,
    /// `bf16: true` becomes `dtype = "bf16"`.
    Dtype(&'static str),
    Reports,
    /// `true` adds this name to `report_to`.
    ReportTo(&'static str),
    /// scale = alpha / rank.
    Scale,
    /// A number of training steps, which is converted if the data can be counted.
    Steps,
}

impl Conversion {
    /// For the page of other tools. `None`: the value is the same.
    #[cfg(test)]
    pub(crate) fn in_words(self) -> Option<&'static str> {
        Some(match self {
            Conversion::Same => return None,
            Conversion::Method => {
                "`lora` is `finetune_lora`, `full` is `finetune_full`; `qlora` sets `load_in_4bit`, `dora` sets `use_dora`"
            }
            Conversion::Data | Conversion::EvalData => "the paths of files, or the names of data sets on the Hub with their split and name",
            Conversion::MaxRows => "`max_rows` of each entry of `dataset_path`",
            Conversion::Fraction => "a fraction below 1; a number of samples is not converted",
            Conversion::OnOff => "`true` is `\"on\"`, `false` is `\"off\"`",
            Conversion::Optimizer => "`adamw` or `adamw_8bit`, without paging; others are not converted",
            Conversion::Scheduler => "`cosine`, `linear` or `constant`; others are not converted",
            Conversion::Modules => "a list; `all` is the default",
            Conversion::FourBit => "`4` is `true`",
            Conversion::Checkpointing => "`\"unsloth\"`, `offload` and `true` are `true`",
            Conversion::Dtype(_) => "`bf16: true` is `dtype = \"bf16\"`",
            Conversion::Reports => "a list of `tensorboard`, `wandb` and `trackio`",
            Conversion::ReportTo(_) => "`true` adds the name to the list",
            Conversion::Scale => "scale × rank, because scale = alpha / rank",
            Conversion::Steps => "steps × conversations per step / number of conversations, if the data can be counted",
        })
    }
}

/// A name of other tools and ours.
pub(crate) struct OtherName {
    /// The key, with the sections above it.
    pub theirs: &'static str,
    pub ours: &'static str,
    /// The tools whose configuration files have it. None: a name that people know from elsewhere.
    pub tools: &'static [Tool],
    pub conversion: Conversion,
}

impl OtherName {
    /// The key without the sections above it.
    pub(crate) fn name(&self) -> &'static str {
        self.theirs.rsplit('.').next().unwrap_or(self.theirs)
    }
}

const fn same(theirs: &'static str, ours: &'static str, tools: &'static [Tool]) -> OtherName {
    OtherName { theirs, ours, tools, conversion: Conversion::Same }
}

const fn converted(theirs: &'static str, ours: &'static str, tools: &'static [Tool], conversion: Conversion) -> OtherName {
    OtherName { theirs, ours, tools, conversion }
}

const fn known(theirs: &'static str, ours: &'static str) -> OtherName {
    same(theirs, ours, &[])
}

/// All names, by ours.
pub(crate) static OTHER_NAMES: &[OtherName] = &[
    same("model_name_or_path", "model", &[LlamaFactory]),
    same("base_model", "model", &[Axolotl]),
    same("model", "model", &[Unsloth, MlxLm]),
    known("model_name", "model"),
    converted("finetuning_type", "task", &[LlamaFactory], Conversion::Method),
    converted("adapter", "task", &[Axolotl], Conversion::Method),
    converted("training.training_type", "task", &[Unsloth], Conversion::Method),
    converted("fine_tune_type", "task", &[MlxLm], Conversion::Method),
    converted("dataset", "dataset_path", &[LlamaFactory], Conversion::Data),
    converted("datasets", "dataset_path", &[Axolotl], Conversion::Data),
    converted("data.local_dataset", "dataset_path", &[Unsloth], Conversion::Data),
    converted("data.dataset", "dataset_path", &[Unsloth], Conversion::Data),
    converted("data", "dataset_path", &[MlxLm], Conversion::Data),
    known("train_file", "dataset_path"),
    converted("max_samples", "dataset_path", &[LlamaFactory], Conversion::MaxRows),
    same("tokens", "add_tokens", &[Axolotl]),
    known("new_tokens", "add_tokens"),
    known("new_special_tokens", "add_tokens"),
    known("additional_special_tokens", "add_tokens"),
    same("cutoff_len", "max_length", &[LlamaFactory]),
    same("sequence_len", "max_length", &[Axolotl]),
    same("training.max_seq_length", "max_length", &[Unsloth]),
    same("max_seq_length", "max_length", &[MlxLm]),
    known("max_seq_len", "max_length"),
    known("sequence_length", "max_length"),
    same("num_train_epochs", "num_epochs", &[LlamaFactory]),
    same("num_epochs", "num_epochs", &[Axolotl]),
    same("training.num_epochs", "num_epochs", &[Unsloth]),
    converted("iters", "num_epochs", &[MlxLm], Conversion::Steps),
    converted("max_steps", "num_epochs", &[LlamaFactory, Axolotl], Conversion::Steps),
    converted("steps", "num_epochs", &[], Conversion::Steps),
    converted("num_steps", "num_epochs", &[], Conversion::Steps),
    converted("train_steps", "num_epochs", &[], Conversion::Steps),
    converted("training.max_steps", "num_epochs", &[Unsloth], Conversion::Steps),
    known("epochs", "num_epochs"),
    known("n_epochs", "num_epochs"),
    same("per_device_train_batch_size", "batch_size", &[LlamaFactory]),
    same("micro_batch_size", "batch_size", &[Axolotl]),
    same("training.batch_size", "batch_size", &[Unsloth]),
    same("batch_size", "batch_size", &[MlxLm]),
    known("batch", "batch_size"),
    known("bs", "batch_size"),
    known("nproc", "nproc_per_node"),
    same("gradient_accumulation_steps", "gradient_accumulation_steps", &[LlamaFactory, Axolotl]),
    same("training.gradient_accumulation_steps", "gradient_accumulation_steps", &[Unsloth]),
    same("grad_accumulation_steps", "gradient_accumulation_steps", &[MlxLm]),
    known("grad_accum", "gradient_accumulation_steps"),
    same("learning_rate", "learning_rate", &[LlamaFactory, Axolotl, MlxLm]),
    same("training.learning_rate", "learning_rate", &[Unsloth]),
    known("lr", "learning_rate"),
    same("warmup_ratio", "warmup", &[LlamaFactory, Axolotl]),
    same("warmup_steps", "warmup", &[LlamaFactory, Axolotl]),
    same("training.warmup_steps", "warmup", &[Unsloth]),
    same("lr_schedule.warmup", "warmup", &[MlxLm]),
    converted("lr_scheduler_type", "scheduler", &[LlamaFactory], Conversion::Scheduler),
    converted("lr_scheduler", "scheduler", &[Axolotl], Conversion::Scheduler),
    converted("lr_schedule.name", "scheduler", &[MlxLm], Conversion::Scheduler),
    same("weight_decay", "weight_decay", &[LlamaFactory, Axolotl]),
    same("training.weight_decay", "weight_decay", &[Unsloth]),
    same("optimizer_config.adamw.weight_decay", "weight_decay", &[MlxLm]),
    known("wd", "weight_decay"),
    converted("optim", "optimizer", &[LlamaFactory], Conversion::Optimizer),
    converted("optimizer", "optimizer", &[Axolotl, MlxLm], Conversion::Optimizer),
    known("max_grad", "max_grad_norm"),
    known("grad_clip", "max_grad_norm"),
    same("max_grad_norm", "max_grad_norm", &[LlamaFactory, Axolotl]),
    same("neftune_noise_alpha", "neftune_alpha", &[LlamaFactory, Axolotl]),
    same("seed", "seed", &[LlamaFactory, Axolotl, MlxLm]),
    same("training.random_seed", "seed", &[Unsloth]),
    same("lora_rank", "lora_rank", &[LlamaFactory]),
    same("lora_r", "lora_rank", &[Axolotl]),
    same("lora.lora_r", "lora_rank", &[Unsloth]),
    same("lora_parameters.rank", "lora_rank", &[MlxLm]),
    known("r", "lora_rank"),
    same("lora_alpha", "lora_alpha", &[LlamaFactory, Axolotl]),
    same("lora.lora_alpha", "lora_alpha", &[Unsloth]),
    converted("lora_parameters.scale", "lora_alpha", &[MlxLm], Conversion::Scale),
    known("alpha", "lora_alpha"),
    same("lora_dropout", "lora_dropout", &[LlamaFactory, Axolotl]),
    same("lora.lora_dropout", "lora_dropout", &[Unsloth]),
    same("lora_parameters.dropout", "lora_dropout", &[MlxLm]),
    converted("lora_target", "target_modules", &[LlamaFactory], Conversion::Modules),
    converted("lora_target_modules", "target_modules", &[Axolotl], Conversion::Modules),
    converted("lora.target_modules", "target_modules", &[Unsloth], Conversion::Modules),
    converted("lora_parameters.keys", "target_modules", &[MlxLm], Conversion::Modules),
    same("use_rslora", "use_rslora", &[LlamaFactory]),
    same("peft_use_rslora", "use_rslora", &[Axolotl]),
    same("lora.use_rslora", "use_rslora", &[Unsloth]),
    same("use_dora", "use_dora", &[LlamaFactory]),
    same("peft_use_dora", "use_dora", &[Axolotl]),
    same("lora.use_dora", "use_dora", &[Unsloth]),
    same("loraplus_lr_ratio", "loraplus_ratio", &[LlamaFactory, Axolotl]),
    same("adapter_name_or_path", "checkpoint_lora", &[LlamaFactory]),
    same("lora_model_dir", "checkpoint_lora", &[Axolotl]),
    same("resume_adapter_file", "checkpoint_lora", &[MlxLm]),
    known("adapter_path", "checkpoint_lora"),
    converted("quantization_bit", "load_in_4bit", &[LlamaFactory], Conversion::FourBit),
    same("load_in_4bit", "load_in_4bit", &[Axolotl]),
    same("training.load_in_4bit", "load_in_4bit", &[Unsloth]),
    known("load_in_4_bit", "load_in_4bit"),
    converted("packing", "packing", &[LlamaFactory], Conversion::OnOff),
    converted("sample_packing", "packing", &[Axolotl], Conversion::OnOff),
    converted("training.packing", "packing", &[Unsloth], Conversion::OnOff),
    known("precision", "dtype"),
    known("mixed_precision", "dtype"),
    converted("bf16", "dtype", &[LlamaFactory, Axolotl], Conversion::Dtype("bf16")),
    converted("fp16", "dtype", &[LlamaFactory, Axolotl], Conversion::Dtype("fp16")),
    converted("gradient_checkpointing", "gradient_checkpointing", &[Axolotl], Conversion::Checkpointing),
    converted("training.gradient_checkpointing", "gradient_checkpointing", &[Unsloth], Conversion::Checkpointing),
    converted("grad_checkpoint", "gradient_checkpointing", &[MlxLm], Conversion::Checkpointing),
    same("torch_compile", "compile", &[LlamaFactory, Axolotl]),
    known("val_ratio", "eval_split"),
    known("eval_ratio", "eval_split"),
    known("val_split", "eval_split"),
    known("validation_split", "eval_split"),
    known("test_size", "eval_split"),
    converted("val_size", "eval_split", &[LlamaFactory], Conversion::Fraction),
    converted("val_set_size", "eval_split", &[Axolotl], Conversion::Fraction),
    converted("eval_dataset", "eval_dataset_path", &[LlamaFactory], Conversion::EvalData),
    converted("test_datasets", "eval_dataset_path", &[Axolotl], Conversion::EvalData),
    known("validation_file", "eval_dataset_path"),
    same("eval_steps", "eval_steps", &[LlamaFactory, Axolotl]),
    same("steps_per_eval", "eval_steps", &[MlxLm]),
    same("early_stopping_patience", "early_stopping_patience", &[Axolotl]),
    same("load_best_model_at_end", "load_best_model_at_end", &[LlamaFactory, Axolotl]),
    same("logging_steps", "logging_steps", &[LlamaFactory, Axolotl]),
    same("steps_per_report", "logging_steps", &[MlxLm]),
    same("save_steps", "save_steps", &[LlamaFactory, Axolotl]),
    same("training.save_steps", "save_steps", &[Unsloth]),
    same("save_every", "save_steps", &[MlxLm]),
    same("save_total_limit", "save_total_limit", &[LlamaFactory, Axolotl]),
    converted("report_to", "report_to", &[LlamaFactory], Conversion::Reports),
    converted("use_tensorboard", "report_to", &[Axolotl], Conversion::ReportTo("tensorboard")),
    converted("logging.enable_wandb", "report_to", &[Unsloth], Conversion::ReportTo("wandb")),
    converted("logging.enable_tensorboard", "report_to", &[Unsloth], Conversion::ReportTo("tensorboard")),
    known("wandb", "report_to"),
    known("use_wandb", "report_to"),
    known("wandb_project", "report_to"),
    known("tensorboard", "report_to"),
    known("output_dir", "runs_dir"),
    known("output", "runs_dir"),
    known("out", "runs_dir"),
    known("o", "runs_dir"),
    known("num_layers", "target_modules"),
    known("lora_layers", "target_modules"),
    known("qlora", "load_in_4bit"),
    known("quant", "load_in_4bit"),
    known("quantize", "load_in_4bit"),
    known("quantization", "load_in_4bit"),
    known("quantization", "bits"),
    known("quantization", "outtype"),
    known("4bit", "load_in_4bit"),
    known("quant", "outtype"),
    known("quantize", "outtype"),
    known("type", "outtype"),
    known("quant", "bits"),
    known("load_in_8bit", "bits"),
    known("gpu", "device"),
    known("gpus", "nproc_per_node"),
    known("num_gpus", "nproc_per_node"),
    known("n_gpu", "nproc_per_node"),
    known("num_processes", "nproc_per_node"),
    known("cpu", "device"),
    known("cuda", "device"),
    known("force", "overwrite"),
    known("name", "step"),
    known("train", "dataset_path"),
    known("train_data", "dataset_path"),
    known("text", "prompt"),
    known("input", "prompt"),
    known("question", "prompt"),
    known("outtypes", "outtype"),
    known("temp", "temperature"),
    known("max_tokens", "max_new_tokens"),
    known("max_completion_tokens", "max_new_tokens"),
    known("num_predict", "max_new_tokens"),
    known("n_predict", "max_new_tokens"),
    known("max_tokens", "max_length"),
    known("max_len", "max_length"),
    known("seq_len", "max_length"),
    known("context_length", "max_length"),
    known("ctx", "max_length"),
    known("epoch", "num_epochs"),
    known("e", "num_epochs"),
    known("load_in_4bit", "bits"),
    known("4bit", "bits"),
    known("bnb_4bit_use_double_quant", "double_quant"),
    known("bnb_4bit_quant_type", "quant_type"),
    known("use_double_quant", "double_quant"),
    known("adapter", "checkpoint_lora"),
    known("lora", "checkpoint_lora"),
    known("val_split", "eval_split"),
    known("validation_split", "eval_split"),
];

/// Keys that need no counterpart, with the reason. Other keys that are not above are named in a warning.
pub(crate) static NOT_NEEDED: &[(&str, &str)] = &[
    ("bnb_4bit_quant_type", "4-bit is nf4"),
    ("data.format_type", "the format of the data is recognized"),
    ("dataset_dir", "dataset_path has the whole path"),
    ("dataset_prepared_path", "prepared data is cached"),
    ("ddp_timeout", "processes wait for each other as long as they run"),
    ("do_train", "a step trains"),
    ("eval_sample_packing", "packing goes for both"),
    ("flash_attention", "the attention is chosen for the device"),
    ("flash_attn", "the attention is chosen for the device"),
    ("lora.finetune_attention_modules", "target_modules decides"),
    ("lora.finetune_language_layers", "target_modules decides"),
    ("lora.finetune_mlp_modules", "target_modules decides"),
    ("lora.finetune_vision_layers", "models of text are trained"),
    ("logging.tensorboard_dir", "reports are in the step's folder"),
    ("output_dir", "outputs are in the session's folder"),
    ("overwrite_cache", "the cache follows the data"),
    ("overwrite_output_dir", "a step is replaced with --overwrite"),
    ("plot_loss", "metrics.jsonl has the loss"),
    ("preprocessing_num_workers", "all cores are used"),
    ("stage", "training is on conversations (sft)"),
    ("train", "a step trains"),
    ("training.train_on_completions", "training is on the answers"),
    ("training.output_dir", "outputs are in the session's folder"),
    ("training_mode", "training is on conversations"),
    ("adapter_path", "outputs are in the session's folder"),
    ("strict", "a pipeline is always checked"),
    ("tf32", "the default of torch is used"),
    ("trust_remote_code", "no code of a model is run"),
];

/// Our name for a parameter that another tool calls so, among those that a command `has`.
pub(crate) fn our_name(other: &str, has: impl Fn(&str) -> bool) -> Option<&'static str> {
    let rows = || OTHER_NAMES.iter().filter(|row| has(row.ours) && row.conversion != Conversion::MaxRows);
    let found = rows().find(|row| row.theirs == other).or_else(|| rows().find(|row| row.name() == other));
    found.map(|row| row.ours)
}

/// Whether a name of another tool counts training steps, which here follow from the epochs.
pub(crate) fn counts_steps(other: &str) -> bool {
    OTHER_NAMES.iter().any(|row| row.conversion == Conversion::Steps && row.name() == other)
}

/// Our name for a misspelling of a name in another tool, such as `epohcs`, among those that a command `has`.
pub(crate) fn our_name_nearly(wrong: &str, has: impl Fn(&str) -> bool) -> Option<&'static str> {
    let most = (wrong.len() / 4).min(3);
    let rated = OTHER_NAMES.iter().filter(|row| has(row.ours)).map(|row| (strsim::damerau_levenshtein(wrong, row.name()), row.ours));
    rated.filter(|(distance, _)| *distance <= most).min_by_key(|(distance, _)| *distance).map(|(_, ours)| ours)
}

/// The parameter that was probably meant: the one that another tool calls so, else the most similar.
pub(crate) fn suggestion<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let known: Vec<&str> = known.collect();
    let ours = our_name(wrong, |ours| known.contains(&ours));
    let translated = ours.and_then(|ours| known.iter().copied().find(|name| *name == ours));
    let nearly = || our_name_nearly(wrong, |ours| known.contains(&ours)).and_then(|ours| known.iter().copied().find(|name| *name == ours));
    translated.or_else(|| did_you_mean(wrong, known.iter().copied())).or_else(nearly)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::task::Task;
    use crate::tasks::{DATASET_COMMANDS, TASKS};

    #[test]
    fn names_lead_to_parameters_and_hide_none() {
        let names: Vec<&str> = TASKS
            .iter()
            .flat_map(|task| task.all_params())
            .chain(DATASET_COMMANDS.iter().flat_map(|command| command.all_params()))
            .map(|param| param.name)
            .collect();
        for row in OTHER_NAMES {
            assert!(names.contains(&row.ours), "{} → {}", row.theirs, row.ours);
            // Else a flag of ours would be answered with another one.
            let has_both = |task: &&Task| task.has(row.theirs) && task.has(row.ours);
            let hidden = TASKS.iter().any(has_both) && row.theirs != row.ours && row.tools.is_empty();
            assert!(!hidden, "{} → {}", row.theirs, row.ours);
        }
        for tool in Tool::ALL {
            let mut keys: Vec<&str> = OTHER_NAMES.iter().filter(|row| row.tools.contains(&tool)).map(|row| row.theirs).collect();
            let count = keys.len();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), count, "{} has a key twice", tool.name());
        }
        for (key, _) in NOT_NEEDED {
            assert!(!OTHER_NAMES.iter().any(|row| row.theirs == *key && !row.tools.is_empty()), "{key} is in both tables");
        }
    }

    #[test]
    fn another_tool_s_name_goes_before_a_similar_one() {
        let known = ["lora_rank", "learning_rate", "max_length"];
        for (wrong, wanted) in [
            ("lr", "learning_rate"),
            ("r", "lora_rank"),
            ("cutoff_len", "max_length"),
            ("lora_rnk", "lora_rank"),
            ("cutof_len", "max_length"),
        ] {
            assert_eq!(suggestion(wrong, known.into_iter()), Some(wanted), "{wrong}");
        }
        assert_eq!(suggestion("bs", known.into_iter()), None);
        assert_eq!(our_name_nearly("epohcs", |ours| ours == "num_epochs"), Some("num_epochs"));
        assert_eq!(our_name_nearly("epohcs", |ours| ours == "lora_rank"), None);
        assert_eq!(our_name_nearly("ir", |_| true), None, "too short");
    }
}
