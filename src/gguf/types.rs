//! The types that GGUF files are written in: one list for the parameter `outtype`, the plan and Python.

use crate::params::param_type::ParamType;

/// By the names of llama.cpp's converter.
pub(crate) const OUTTYPES: [&str; 3] = ["f16", "bf16", "q8_0"];

/// The parameter's kind.
pub(crate) const OUTTYPE: ParamType = ParamType::ChoiceList(&OUTTYPES);
