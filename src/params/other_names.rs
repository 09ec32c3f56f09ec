//! Names that people know from other tools, for suggestions: transformers and TRL, LLaMA-Factory, Axolotl, Unsloth, mlx-lm.

use crate::base::error::did_you_mean;

/// Their name and ours.
const OTHER_NAMES: [(&str, &str); 56] = [
    ("adapter_path", "checkpoint_lora"),
    ("alpha", "lora_alpha"),
    ("base_model", "model"),
    ("batch", "batch_size"),
    ("bs", "batch_size"),
    ("cutoff_len", "max_length"),
    ("data", "dataset_path"),
    ("dataset", "dataset_path"),
    ("dropout", "lora_dropout"),
    ("epochs", "num_epochs"),
    ("eval_dataset", "eval_dataset_path"),
    ("finetuning_type", "task"),
    ("grad_accum", "gradient_accumulation_steps"),
    ("grad_checkpoint", "gradient_checkpointing"),
    ("iters", "num_epochs"),
    ("load_in_4_bit", "load_in_4bit"),
    ("lora_r", "lora_rank"),
    ("lora_target", "target_modules"),
    ("lora_target_modules", "target_modules"),
    ("lr", "learning_rate"),
    ("lr_scheduler", "scheduler"),
    ("lr_scheduler_type", "scheduler"),
    ("max_completion_tokens", "max_new_tokens"),
    ("max_seq_len", "max_length"),
    ("max_seq_length", "max_length"),
    ("max_steps", "num_epochs"),
    ("max_tokens", "max_new_tokens"),
    ("micro_batch_size", "batch_size"),
    ("model_name", "model"),
    ("model_name_or_path", "model"),
    ("n_epochs", "num_epochs"),
    ("neftune_noise_alpha", "neftune_alpha"),
    ("num_train_epochs", "num_epochs"),
    ("optim", "optimizer"),
    ("output_dir", "runs_dir"),
    ("outtypes", "outtype"),
    ("per_device_train_batch_size", "batch_size"),
    ("quantization_bit", "bits"),
    ("r", "lora_rank"),
    ("rank", "lora_rank"),
    ("resume_adapter_file", "checkpoint_lora"),
    ("sample_packing", "packing"),
    ("save_every", "save_steps"),
    ("sequence_len", "max_length"),
    ("sequence_length", "max_length"),
    ("steps_per_eval", "eval_steps"),
    ("steps_per_report", "logging_steps"),
    ("temp", "temperature"),
    ("torch_compile", "compile"),
    ("train_file", "dataset_path"),
    ("val_set_size", "eval_split"),
    ("val_size", "eval_split"),
    ("validation_file", "eval_dataset_path"),
    ("warmup_ratio", "warmup"),
    ("warmup_steps", "warmup"),
    ("wd", "weight_decay"),
];

/// Our name for a parameter that another tool calls so.
pub(crate) fn our_name(other: &str) -> Option<&'static str> {
    OTHER_NAMES.iter().find(|(theirs, _)| *theirs == other).map(|(_, ours)| *ours)
}

/// The parameter that was probably meant: the one that another tool calls so, else the most similar.
pub(crate) fn suggestion<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let known: Vec<&str> = known.collect();
    let translated = our_name(wrong).and_then(|ours| known.iter().copied().find(|name| *name == ours));
    translated.or_else(|| did_you_mean(wrong, known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{DATASET_COMMANDS, TASKS};

    #[test]
    fn names_lead_to_parameters_and_hide_none() {
        let names: Vec<&str> = TASKS
            .iter()
            .flat_map(|task| task.all_params())
            .chain(DATASET_COMMANDS.iter().flat_map(|command| command.all_params()))
            .map(|param| param.name)
            .collect();
        assert!(OTHER_NAMES.is_sorted());
        for (theirs, ours) in OTHER_NAMES {
            assert!(names.contains(&ours) && !names.contains(&theirs), "{theirs} → {ours}");
        }
    }

    #[test]
    fn another_tool_s_name_goes_before_a_similar_one() {
        let known = ["lora_rank", "learning_rate", "max_length"];
        for (wrong, wanted) in [("lr", "learning_rate"), ("r", "lora_rank"), ("cutoff_len", "max_length"), ("lora_rnk", "lora_rank")] {
            assert_eq!(suggestion(wrong, known.into_iter()), Some(wanted), "{wrong}");
        }
        assert_eq!(suggestion("bs", known.into_iter()), None);
    }
}
