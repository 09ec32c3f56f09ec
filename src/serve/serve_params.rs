//! The parameters of `serve`.

use crate::gguf::ONE_OUTTYPE;
use crate::params::prelude::*;
use crate::params::task::Examples;
use crate::serve::engine::ENGINES;

pub(crate) const NAME: &str = "serve";
pub(crate) const ABOUT: &str = "Serve models and adapters by an HTTP API like OpenAI's";
pub(crate) const EXAMPLES: Examples = [
    ("Serve a GGUF file of a step:", "pyrust-nn serve -m s1/convert_model_to_gguf:q8_0"),
    (
        "Serve a model and an adapter on it, under names of their own:",
        "pyrust-nn serve -m base=Qwen/Qwen3-0.6B --adapter support=s1/finetune_lora",
    ),
];

/// What is served.
pub(crate) static SERVED_MODELS: Param = Param::input(
    "model",
    ParamType::NamedArtifacts,
    "Model: a GGUF file, a session's step (of a step with several files the first, or step:q8_0), a folder or a hub name. Several may be given. Requests call it NAME, or as it is written here (a file: its name without .gguf).",
);

device_params! {
    [params]
    /// Serve models and adapters.
    ServeParams {
        /// Adapter, as a model of its own name: a GGUF file, a session's step or a folder. It is used with the first model that it fits. Several may be given.
        unset adapter: Vec<String> = Vec::new(), ParamType::NamedArtifacts, Model;
        /// Address to listen on. Others than this machine's own (127.0.0.1, ::1, localhost) need an API key.
        default host: String = "127.0.0.1".to_string(), ParamType::String, Server;
        /// Port to listen on; 0 is any free one.
        default port: u32 = 8080, int(0, 65_535), Server;
        /// What computes: llama is llama.cpp with files in GGUF, vllm and transformers are those projects' own servers with folders, if they are installed.
        default engine: String = ENGINES[0].to_string(), ParamType::Choice(ENGINES), Server;
        /// With the engine llama: a llama-server that you built, in place of the llama.cpp of the package xllamacpp.
        unset llama_server: PathBuf = PathBuf::new(), ParamType::Path, Server;
        /// Type of the GGUF file to which a model is converted that is not in GGUF. The file is kept in the cache.
        default outtype: String = "q8_0".to_string(), ONE_OUTTYPE, Server;
        /// Key that requests must have (`Authorization: Bearer KEY`). If unset: the environment variable PYRUST_NN_API_KEY, otherwise none.
        unset api_key: String = String::new(), ParamType::String, Server;
        /// Number of answers at once, of each model. More requests wait.
        default parallel: u32 = 4, int(1, 64), Memory;
        /// Positions of an answer with its prompt. If unset: those of the model, at most 8192.
        unset ctx_size: Option<u32> = None, int(1, 16_777_216), Memory;
        /// Name of the step, which is also its folder in the session. If unset: serve, serve-2, ….
        unset step: String = String::new(), ParamType::String, Session;
        /// Do not use the network, except to listen.
        default offline: bool = false, ParamType::Bool, Global;
        /// Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory.
        unset runs_dir: PathBuf = PathBuf::new(), ParamType::Path, Global;
    }
}

/// All parameters: what is served, and how.
pub(crate) fn all_params() -> impl Iterator<Item = &'static Param> {
    std::iter::once(&SERVED_MODELS).chain(ServeParams::params())
}
