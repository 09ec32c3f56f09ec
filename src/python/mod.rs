//! Rust calls Python: environment, interpreter, scripts, exceptions and values. This part knows no sessions and steps; scripts report to a
//! [`script_host::ScriptHost`]. Only this part and `native/` import PyO3.

pub(crate) mod chat_model;
pub(crate) mod convert;
pub(crate) mod environment;
pub(crate) mod exceptions;
pub(crate) mod interpreter;
pub(crate) mod package;
pub(crate) mod preflight;
pub(crate) mod probe;
pub(crate) mod processes;
pub(crate) mod script;
pub(crate) mod script_host;
pub(crate) mod served_model;
pub(crate) mod transformers;

pub use pyo3;

pub(crate) use chat_model::{ChatAnswer, ChatModel};
pub(crate) use exceptions::from_python;
pub(crate) use interpreter::{
    EnvironmentChoice, check_signals, deny_network, finish, host_prefix, note_signals, start, start_or_check_environment, started,
    use_environment, with_python,
};
pub(crate) use package::{adapter_base, hub_dataset, hub_revision, json_lines, model_folder};
pub(crate) use preflight::{
    check_compiler, check_device, check_hub_model, check_llama_server, check_reports, check_served_folders, check_served_model,
    check_tensor_patterns,
};
pub(crate) use probe::{TimingProbe, time_rows};
pub(crate) use processes::{
    LAUNCHED, follow_step, is_command_line, is_launched, is_worker, say_to_workers, torchrun_place, work, worker_command,
};
pub(crate) use script::{Answer, ScriptCall, call_script, called_user_script, check_script_params};
pub(crate) use served_model::{LlamaAddress, ServedModel, first_model_for};
pub(crate) use transformers::PythonTransformers;
