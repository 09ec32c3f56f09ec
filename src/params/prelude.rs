//! Imports that every file of `tasks/` needs to define its parameters and its task.

pub(crate) use std::path::PathBuf;

pub(crate) use anyhow::Result;
pub(crate) use serde::Serialize;
pub(crate) use serde_json::{Map, Value, json};

pub(crate) use crate::params::group::Group;
pub(crate) use crate::params::lora_defaults;
pub(crate) use crate::params::param::ADAPTER;
pub(crate) use crate::params::param::ANSWERING_MODEL;
pub(crate) use crate::params::param::Finite;
pub(crate) use crate::params::param::MODEL;
pub(crate) use crate::params::param::Param;
pub(crate) use crate::params::param::Presence;
pub(crate) use crate::params::param::SCRIPT;
pub(crate) use crate::params::param::TaskParams;
pub(crate) use crate::params::param_type::COLUMNS;
pub(crate) use crate::params::param_type::DTYPE;
pub(crate) use crate::params::param_type::ParamType;
pub(crate) use crate::params::param_type::SHAPE;
pub(crate) use crate::params::param_type::float;
pub(crate) use crate::params::param_type::float_above;
pub(crate) use crate::params::param_type::int;
pub(crate) use crate::params::process_count::ProcessCount;
pub(crate) use crate::params::prompt::Prompt;
pub(crate) use crate::params::task::Task;
