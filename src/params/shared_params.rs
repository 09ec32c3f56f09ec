//! Rows that the tables of several tasks share, each set as a macro that adds them and continues with the next macro of the list (see
//! `table.rs`).

/// Adds the parameters of every dataset command.
macro_rules! dataset_params {
    ([] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        params! { [] $(#[doc = $about])+ $name { $($fields)*
            /// Do not use the network: the model must be a local folder, builtin:tiny or already downloaded.
            default offline: bool = false, ParamType::Bool, Global;
            /// Folder of all sessions, used if the model is a session's step. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory.
            unset runs_dir: PathBuf = PathBuf::new(), ParamType::Path, Global;
        } }
    };
}

/// Adds the parameter `device`.
macro_rules! device_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name { $($fields)*
            /// Device to compute on: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N.
            default device: String = "auto".to_string(), ParamType::Device, Memory;
        } }
    };
}

/// Adds the parameters of every step.
macro_rules! step_params {
    ([] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        device_params! { [params] $(#[doc = $about])+ $name { $($fields)*
            /// Name of the step, which is also its folder in the session. If unset: the task's name.
            unset step: String = String::new(), ParamType::String, Session;
            /// Replace an existing step of the same name. The old step is kept until the new one has succeeded.
            default overwrite: bool = false, ParamType::Bool, Session;
            /// Show the resolved parameters without running the step.
            default dry_run: bool = false, ParamType::Bool, Session;
            /// Do not use the network: models must be local folders, builtin:tiny or already downloaded.
            default offline: bool = false, ParamType::Bool, Global;
            /// Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory.
            unset runs_dir: PathBuf = PathBuf::new(), ParamType::Path, Global;
        } }
    };
}

/// Adds the parameter of tasks that take an adapter.
macro_rules! adapter_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name { $($fields)*
            /// Base model of the adapter, if it is not where the adapter says: a folder, a session's step, builtin:tiny or a hub name.
            unset base_model: PathBuf = PathBuf::new(), ParamType::Model, Model;
        } }
    };
}

/// Adds the parameters of the proof at the end of tasks that make a model.
macro_rules! proof_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name { $($fields)*
            /// Check that the output is its source model, within the error of its type. The step fails if it is not.
            default verify: bool = true, ParamType::Bool, Evaluation;
            /// Number of tokens on which the proof compares predictions.
            default verify_tokens: u32 = 64, int(16, 1_000_000_000), Evaluation;
            /// Highest mean divergence (KL, in nats) of the predictions from the model's that the proof allows. If unset: by the type of the file.
            unset max_kl: Option<f64> = None, float_above(0.0, 1000.0), Evaluation;
        } }
    };
}

/// Adds the parameter of tasks that compute an importance matrix.
macro_rules! imatrix_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name { $($fields)*
            /// Number of tokens on which an importance matrix is computed, at most. If the data set has more, its conversations are chosen evenly.
            default imatrix_tokens: u32 = 131_072, int(16, 1_000_000_000), Data;
        } }
    };
}

/// Adds the data set of a training and the parameters that decide how it becomes rows.
macro_rules! data_params {
    ([$($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        row_params! { [$($rest)*] {
            /// Training conversations: files or patterns such as `data/*.jsonl`. Each file is a JSON list or JSON Lines (also .gz and .zst) of `{"messages": [{"role": …, "content": …}, …]}`, or Parquet, Arrow or a folder of the datasets library.
            required dataset_path: Vec<PathBuf> = Vec::new(), ParamType::Paths, Data;
            /// New tokens, such as `<call>`, which are then one token in every text. Their embeddings begin as the mean of the tokens that the text had before, and are trained; the tokenizer is saved with them.
            unset add_tokens: Vec<String> = Vec::new(), ParamType::TextList, Data;
        } $(#[doc = $about])+ $name { $($fields)* } }
    };
}

/// Adds the first rows of the table, which end with a data set, and the parameters that decide how it becomes rows.
macro_rules! row_params {
    ([$next:ident $($rest:ident)*] { $($first:tt)* } $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name { $($first)*
            /// Shape of the conversations: auto detects it by the keys of a file's first conversations.
            default shape: String = "auto".to_string(), SHAPE, Data;
            /// Columns under other names: which key of a conversation holds what, such as `user` the question and `assistant` the answer.
            unset columns: Map<String, Value> = Map::new(), COLUMNS, Data;
            /// Variables of the chat template, such as `enable_thinking`. A conversation's own `chat_template_kwargs` take precedence.
            unset template_kwargs: Map<String, Value> = Map::new(), ParamType::JsonObject, Data;
            /// Maximum length of a sample, in tokens.
            default max_length: u32 = 2048, int(8, 1_048_576), Data;
            /// How to handle samples longer than max_length: error lists them and stops, drop omits them, truncate_left and truncate_right cut them.
            default overlong: String = "error".to_string(), ParamType::Choice(&["error", "drop", "truncate_left", "truncate_right"]), Data;
            /// How to handle the assistant's reasoning (`<think>…</think>`, `reasoning_content`): keep trains on it where the chat template includes it, drop removes it, mask keeps it in the input without training on it.
            default thinking: String = "keep".to_string(), ParamType::Choice(&["keep", "drop", "mask"]), Data;
            /// Omit conversations that are identical to an earlier one.
            default drop_duplicates: bool = false, ParamType::Bool, Data;
            /// Fraction of the conversations, chosen with the seed, that is held out for evaluation.
            default eval_split: f64 = 0.0, float(0.0, 0.9), Evaluation;
            /// Random seed for the data order, dropout, new weights and the evaluation split.
            default seed: u32 = 42, int(0, u32::MAX as i64), Training;
            $($fields)*
        } }
    };
}

/// Adds the parameters of the training loop: epochs, batches, dtype, checkpoints.
macro_rules! loop_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name {
            /// Number of passes over the data set.
            default num_epochs: f64 = 3.0, float_above(0.0, 100_000.0), Training;
            /// Rows of a training step, before they are multiplied by gradient_accumulation_steps. How many are computed at once is decided by max_tokens_per_batch.
            default batch_size: u32 = 4, int(1, 65_536), Training;
            /// Multiplies batch_size: a training step has batch_size times this many rows, whose gradients are summed before the update.
            default gradient_accumulation_steps: u32 = 1, int(1, 65_536), Training;
            /// Maximum number of tokens in one micro-batch. It affects only memory and speed (and the balance of the router in a mixture of experts). If unset: 768 on a CPU; 16384 on CUDA, reduced after an out-of-memory error.
            unset max_tokens_per_batch: Option<u32> = None, int(1, 16_777_216), Memory;
            /// Concatenate samples into one sequence, without attention between them, instead of padding them: auto does so if the model's layers support it.
            default packing: String = "auto".to_string(), ParamType::Choice(&["auto", "on", "off"]), Memory;
            /// Dtype of the computation: auto is bf16 on CUDA (fp16 if bf16 is not supported) and fp32 on a CPU.
            default dtype: String = "auto".to_string(), DTYPE, Memory;
            /// Number of steps between checkpoints; 0 writes none.
            default save_steps: u32 = 0, int(0, 1_000_000_000), Output;
            $($fields)*
        } }
    };
}

/// Adds the parameters that decide the size of an adapter and of its base model in memory.
macro_rules! lora_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name {
            /// Rank of the LoRA matrices.
            unset lora_rank: u32 = 0, int(1, 65_536), Lora, else lora_defaults::RANK;
            /// Names of the layers that LoRA adapts. In a model without layers of the default names: all linear layers of the transformer blocks.
            unset target_modules: Vec<String> = Vec::new(), ParamType::StringList, Lora, else lora_defaults::TARGET_MODULES;
            /// Load the frozen model in 4-bit nf4 (QLoRA).
            default load_in_4bit: bool = false, ParamType::Bool, Memory;
            $($fields)*
        } }
    };
}

/// Adds the parameter of the data set for evaluation.
macro_rules! eval_data_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name {
            /// Conversations for evaluation, in the same formats as dataset_path.
            unset eval_dataset_path: PathBuf = PathBuf::new(), ParamType::Path, Evaluation;
            $($fields)*
        } }
    };
}

/// Adds the remaining parameters that full and LoRA fine-tuning share.
macro_rules! finetune_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        eval_data_params! { [$next $($rest)*] $(#[doc = $about])+ $name {
            /// Warm-up of the learning rate from 0: a number of steps or, if below 1, a fraction of all steps.
            default warmup: f64 = 0.0, float(0.0, 10_000_000.0), Training;
            /// Learning rate schedule after the warm-up.
            default scheduler: String = "cosine".to_string(), ParamType::Choice(&["cosine", "linear", "constant"]), Training;
            /// Decoupled weight decay of AdamW.
            default weight_decay: f64 = 0.0, float(0.0, 10.0), Training;
            /// Optimizer: adamw, or adamw_8bit with its moments in 8-bit (bitsandbytes, arXiv 2110.02861) to save memory.
            default optimizer: String = "adamw".to_string(), ParamType::Choice(&["adamw", "adamw_8bit"]), Training;
            /// Strength of the NEFTune noise on the embeddings (arXiv 2310.05914), for example 5. If unset: no noise.
            unset neftune_alpha: Option<f64> = None, float_above(0.0, 1000.0), Training;
            /// Recompute activations in the backward pass instead of storing them, to save memory at the cost of speed.
            default gradient_checkpointing: bool = false, ParamType::Bool, Memory;
            /// Compile the model's layers with torch.compile. Training is faster after about a minute of compilation. Needs a C++ compiler.
            default compile: bool = false, ParamType::Bool, Memory;
            /// Clip gradients to this norm; 0 disables clipping.
            default max_grad_norm: f64 = 1.0, float(0.0, 1_000_000.0), Training;
            /// Number of steps between lines of metrics.jsonl.
            default logging_steps: u32 = 10, int(1, 1_000_000), Output;
            /// Number of processes that train together on this machine, each with a GPU of its own or a part of the processors. The training is the same with any number. auto: one for each GPU, and one on a CPU.
            default nproc_per_node: ProcessCount = ProcessCount::Exactly(1), ParamType::Processes { max: 1024 }, Memory;
            /// With several processes: how many times the training goes on from its last checkpoint (save_steps) after one of them has ended unexpectedly.
            default max_restarts: u32 = 0, int(0, 1_000_000), Memory;
            /// Maximum number of checkpoints to keep, always including the newest and the best; 0 keeps all.
            default save_total_limit: u32 = 0, int(0, 1_000_000), Output;
            /// Number of steps between evaluations; 0 evaluates after each epoch.
            default eval_steps: u32 = 0, int(0, 1_000_000_000), Evaluation;
            /// Stop after this many consecutive evaluations without a lower loss; 0 disables early stopping.
            default early_stopping_patience: u32 = 0, int(0, 1_000_000), Evaluation;
            /// Save the weights with the lowest evaluation loss instead of the last ones.
            default load_best_model_at_end: bool = false, ParamType::Bool, Evaluation;
            /// Number of prompts that the model answers before and after training, for the report: of held-out rows if there are some, else of training rows. The answers are greedy and have at most 48 tokens, so all together take about as long as 100 tokens of one answer. 0 asks nothing.
            default sample_prompts: u32 = 4, int(0, 100), Evaluation;
            /// Where to report metrics besides metrics.jsonl: tensorboard (in the step's folder `tensorboard`), wandb, trackio. If unset: nowhere else.
            unset report_to: Vec<String> = Vec::new(), ParamType::ChoiceList(&["tensorboard", "wandb", "trackio"]), Output;
            $($fields)*
        } }
    };
}
