//! How a table of parameters becomes a struct and its definition, and the rows that several tables share.
//!
//! A row is `<presence> <name>: <type> = <value>, <kind>;` under its help. A macro that adds rows takes, in brackets, the macros
//! that the table goes through after it; `params` is the last of them.

macro_rules! presence {
    (required, $value:expr) => {
        (Presence::Required, || Value::Null)
    };
    (unset, $value:expr) => {
        (Presence::Unset, || Value::Null)
    };
    (default, $value:expr) => {
        (Presence::Default, || json!($value))
    };
}

macro_rules! fallback {
    () => {
        None
    };
    ($value:expr) => {
        Some(|| json!($value))
    };
}

macro_rules! params {
    ([] $(#[doc = $about:literal])+ $name:ident { $( $(#[doc = $help:literal])+ $presence:ident $field:ident: $ty:ty = $value:expr, $kind:expr $(, else $fallback:expr)?; )* }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub struct $name { $( $(#[doc = $help])+ pub $field: $ty, )* }

        impl Default for $name {
            fn default() -> Self { $name { $( $field: $value, )* } }
        }

        impl TaskParams for $name {
            fn not_finite(&self) -> Option<&'static str> {
                $( if !Finite::finite(&self.$field) { return Some(stringify!($field)); } )*
                None
            }

            fn params() -> &'static [Param] {
                static PARAMS: &[Param] = &[ $( {
                    const PRESENCE: (Presence, fn() -> Value) = presence!($presence, $value);
                    Param {
                        name: stringify!($field),
                        help: concat!($($help),+),
                        kind: $kind,
                        presence: PRESENCE.0,
                        default: PRESENCE.1,
                        fallback: fallback!($($fallback)?),
                        absent: || json!($value as $ty),
                    }
                } ),* ];
                PARAMS
            }
        }
    };
}

/// Adds what every command about a data set has.
macro_rules! dataset_params {
    ([] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        params! { [] $(#[doc = $about])+ $name { $($fields)*
            /// Open no socket: the model must be a folder, builtin:tiny or downloaded before.
            default offline: bool = false, Kind::Bool;
            /// Folder of all sessions, for a model that is a session's step; unset, PYRUST_NN_RUNS, else `runs` in the working directory.
            unset runs_dir: PathBuf = PathBuf::new(), Kind::Path;
        } }
    };
}

/// Adds where to compute.
macro_rules! device_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name { $($fields)*
            /// Where to compute: auto (CUDA where there is one), cpu, cuda or cuda:N.
            default device: String = "auto".to_string(), Kind::Device;
        } }
    };
}

/// Adds what every step has.
macro_rules! step_params {
    ([] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        device_params! { [params] $(#[doc = $about])+ $name { $($fields)*
            /// The step's folder in the session; unset, the task's name.
            unset step: String = String::new(), Kind::Text;
            /// Replace the step if the session has one of that name; the earlier one stays until the new one has succeeded.
            default overwrite: bool = false, Kind::Bool;
            /// Show the resolved parameters and do nothing.
            default dry_run: bool = false, Kind::Bool;
            /// Open no socket: models must be folders, builtin:tiny or downloaded before.
            default offline: bool = false, Kind::Bool;
            /// Folder of all sessions; unset, PYRUST_NN_RUNS, else `runs` in the working directory.
            unset runs_dir: PathBuf = PathBuf::new(), Kind::Path;
        } }
    };
}

/// Adds what decides the rows that a data set becomes, and goes on with the next macro of the list.
macro_rules! data_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name {
            /// The conversations: files or patterns such as data/*.jsonl, each a JSON list or JSON lines (also .gz and .zst) of {"messages": [{"role": …, "content": …}, …]}; or Parquet, Arrow, a folder of the datasets library.
            required dataset_path: Vec<PathBuf> = Vec::new(), Kind::Paths;
            /// Longest sample, in tokens.
            default max_length: u32 = 2048, int(8, 1_048_576);
            /// What happens to a sample that is longer: error lists them, drop leaves them out, truncate_left and truncate_right cut them.
            default overlong: String = "error".to_string(), Kind::Choice(&["error", "drop", "truncate_left", "truncate_right"]);
            /// The assistant's thoughts (<think>…</think>, reasoning_content): keep learns them where the template shows them, drop takes them out, mask shows them and does not learn them.
            default thinking: String = "keep".to_string(), Kind::Choice(&["keep", "drop", "mask"]);
            /// Leave out conversations that are equal to an earlier one.
            default drop_duplicates: bool = false, Kind::Bool;
            /// Share of the conversations, drawn by the seed, that is held out for evaluation.
            default eval_split: f64 = 0.0, float(0.0, 0.9);
            /// Seed of everything random: order, dropout, new weights, the evaluation split.
            default seed: u32 = 42, int(0, u32::MAX as i64);
            $($fields)*
        } }
    };
}

/// Adds what decides how often and in which portions the rows are seen.
macro_rules! loop_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name {
            /// Passes over the data set.
            default num_epochs: f64 = 3.0, float_above(0.0, 100_000.0);
            /// Conversations per forward and backward pass.
            default batch_size: u32 = 4, int(1, 65_536);
            /// Passes whose gradients are summed before the weights move: a training step is batch_size times this many conversations.
            default gradient_accumulation_steps: u32 = 1, int(1, 65_536);
            /// Most tokens that go through the model at once; a step is cut accordingly, which changes nothing but memory and speed. Unset: 768 on a CPU; 16384 on CUDA, and less once memory has run out.
            unset max_tokens_per_batch: Option<u32> = None, int(1, 16_777_216);
            /// Lay samples one behind the other, none seeing another, instead of side by side: auto does so where the model's layers allow it.
            default packing: String = "auto".to_string(), Kind::Choice(&["auto", "on", "off"]);
            /// Number format: auto is bf16, else fp16, on CUDA, and fp32 on a CPU.
            default dtype: String = "auto".to_string(), DTYPE;
            /// Steps between two checkpoints; 0 writes none.
            default save_steps: u32 = 0, int(0, 1_000_000_000);
            $($fields)*
        } }
    };
}

/// Adds what decides the size of an adapter and of the model beside it.
macro_rules! lora_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name {
            /// Rank of the adapter's matrices.
            unset lora_rank: u32 = 0, int(1, 65_536), else lora_defaults::RANK;
            /// Layers that get an adapter. In a model whose layers have other names than those taken by default, every linear layer of the blocks does.
            unset target_modules: Vec<String> = Vec::new(), Kind::TextList, else lora_defaults::TARGET_MODULES;
            /// Hold the frozen model in 4 bit, nf4 (QLoRA).
            default load_in_4bit: bool = false, Kind::Bool;
            $($fields)*
        } }
    };
}

/// Adds what both ways of fine-tuning have besides.
macro_rules! finetune_params {
    ([$next:ident $($rest:ident)*] $(#[doc = $about:literal])+ $name:ident { $($fields:tt)* }) => {
        $next! { [$($rest)*] $(#[doc = $about])+ $name {
            /// Steps over which the learning rate rises from 0: a number of steps, or below 1 a share of all steps.
            default warmup: f64 = 0.0, float(0.0, 10_000_000.0);
            /// How the learning rate goes on after the warm-up.
            default scheduler: String = "cosine".to_string(), Kind::Choice(&["cosine", "linear", "constant"]);
            /// AdamW's decoupled weight decay.
            default weight_decay: f64 = 0.0, float(0.0, 10.0);
            /// The optimizer: AdamW, or with its moments in 8 bit (bitsandbytes; arXiv 2110.02861), for less memory.
            default optimizer: String = "adamw".to_string(), Kind::Choice(&["adamw", "adamw_8bit"]);
            /// Strength of NEFTune's noise on the embeddings (arXiv 2310.05914), 5 for instance; unset, none.
            unset neftune_alpha: Option<f64> = None, float_above(0.0, 1000.0);
            /// Compute activations again in the backward pass instead of keeping them: less memory, more time.
            default gradient_checkpointing: bool = false, Kind::Bool;
            /// Run the model's layers through torch.compile: faster where a long training outweighs the first minute; needs a C++ compiler.
            default compile: bool = false, Kind::Bool;
            /// Gradients are scaled down to this norm; 0 leaves them.
            default max_grad_norm: f64 = 1.0, float(0.0, 1_000_000.0);
            /// Steps between two lines of metrics.jsonl.
            default logging_steps: u32 = 10, int(1, 1_000_000);
            /// How many checkpoints are kept, the newest and the best among them in any case; 0 keeps all.
            default save_total_limit: u32 = 0, int(0, 1_000_000);
            /// Conversations to evaluate on, in the form of dataset_path.
            unset eval_dataset_path: PathBuf = PathBuf::new(), Kind::Path;
            /// Steps between two evaluations; 0 evaluates after each epoch.
            default eval_steps: u32 = 0, int(0, 1_000_000_000);
            /// End after so many evaluations in a row without a lower loss; 0 never does.
            default early_stopping_patience: u32 = 0, int(0, 1_000_000);
            /// Save the weights of the evaluation with the lowest loss instead of the last ones.
            default load_best_model_at_end: bool = false, Kind::Bool;
            /// Where metrics go besides metrics.jsonl: tensorboard (the step's folder `tensorboard`), wandb; unset, nowhere.
            unset report_to: Vec<String> = Vec::new(), Kind::ChoiceList(&["tensorboard", "wandb"]);
            $($fields)*
        } }
    };
}
