//! Inference: generates answers to prompts.

use crate::params::prelude::*;
use crate::session::Summary;
use crate::tasks::call::run_task;

adapter_params! {
    [step_params]
    /// Generate answers to prompts.
    InferenceParams {
        /// Prompt: a string or, in Python, Rust and pipeline.toml, a whole conversation. Several may be given.
        unset prompt: Vec<Prompt> = Vec::new(), ParamType::Prompts, Generation;
        /// File of prompts: a JSON list or JSON Lines of strings or conversations, any data set, or a .txt file with one prompt per line.
        unset prompts_file: PathBuf = PathBuf::new(), ParamType::Path, Generation;
        /// Variables of the chat template, such as `enable_thinking`. A conversation's own `chat_template_kwargs` take precedence.
        unset template_kwargs: Map<String, Value> = Map::new(), ParamType::JsonObject, Generation;
        /// Maximum number of generated tokens per answer.
        default max_new_tokens: u32 = 256, int(1, 1_048_576), Generation;
        /// Sampling temperature; 0 is greedy decoding. If unset: the value in the model's generation config.
        unset temperature: Option<f64> = None, float(0.0, 100.0), Generation;
        /// Nucleus sampling: use only the most likely tokens whose probabilities sum to this. If unset: the value in the model's generation config.
        unset top_p: Option<f64> = None, float_above(0.0, 1.0), Generation;
        /// Sample only from this many of the most likely tokens. If unset: the value in the model's generation config.
        unset top_k: Option<u32> = None, int(1, 1_000_000), Generation;
        /// Sample only from tokens that are at least this fraction as likely as the likeliest (arXiv 2407.01082). If unset: the value in the model's generation config.
        unset min_p: Option<f64> = None, float(0.0, 1.0), Generation;
        /// Divide the logits of tokens that are in the prompt or the answer by this if they are positive, otherwise multiply (arXiv 1909.05858); 1 is off. If unset: the value in the model's generation config.
        unset repetition_penalty: Option<f64> = None, float_above(0.0, 100.0), Generation;
        /// Strings that end an answer and are not part of it.
        unset stop: Vec<String> = Vec::new(), ParamType::TextList, Generation;
        /// Number of answers to each prompt. They are drawn with the seeds `seed`, `seed` + 1 and so on.
        default n: u32 = 1, int(1, 10_000), Generation;
        /// Number of prompts that are answered at once; by a folder only at temperature 0. If unset: up to 8.
        unset parallel: Option<u32> = None, int(1, 64), Memory;
        /// Adapter in GGUF, added to the model if that is a GGUF file: a file or a session's step. Several may be given.
        unset adapter: Vec<PathBuf> = Vec::new(), ParamType::GgufAdapters, Model;
        /// Factor of each adapter in GGUF. If unset: 1.
        unset adapter_scale: Vec<f64> = Vec::new(), ParamType::FloatList { min: -1000.0, max: 1000.0 }, Model;
        /// Random seed for sampling.
        default seed: u32 = 42, int(0, u32::MAX as i64), Generation;
        /// Dtype of the computation: auto is bf16 on CUDA (fp16 if bf16 is not supported) and fp32 on a CPU.
        default dtype: String = "auto".to_string(), DTYPE, Memory;
    }
}

impl InferenceParams {
    /// The defaults with one prompt.
    pub fn new(prompt: impl Into<Prompt>) -> Self {
        Self { prompt: vec![prompt.into()], ..Self::default() }
    }
}

pub(crate) static TASK: Task = Task {
    name: "inference",
    function: "inference",
    about: "Generate answers to prompts",
    examples: [
        ("Ask a GGUF file of a step by llama.cpp:", "pyrust-nn inference -m s1/convert_model_to_gguf:q8_0 \"What is Rust?\""),
        (
            "Answer the prompts of a file, always with the likeliest words:",
            "pyrust-nn inference -m s1/merge --prompts-file prompts.txt --temperature 0",
        ),
    ],
    input: &ANSWERING_MODEL,
    params: InferenceParams::params,
    script: Some("inference.py"),
};

/// Generates answers to prompts and returns them in the summary's `result`.
///
/// # Errors
/// The same [`crate::error::Kind`] as in the step's `summary.json`.
pub fn inference(session: &str, model: &str, params: &InferenceParams) -> Result<Summary> {
    run_task(&TASK, session, model, params)
}
