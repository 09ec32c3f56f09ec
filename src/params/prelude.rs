//! What a file of `tasks/` needs to define its parameters and its row.

pub(crate) use std::path::PathBuf;

pub(crate) use anyhow::Result;
pub(crate) use serde::Serialize;
pub(crate) use serde_json::{Map, Value, json};

pub(crate) use crate::params::kind::DTYPE;
pub(crate) use crate::params::kind::Kind;
pub(crate) use crate::params::kind::Prompt;
pub(crate) use crate::params::kind::float;
pub(crate) use crate::params::kind::float_above;
pub(crate) use crate::params::kind::int;
pub(crate) use crate::params::lora_defaults;
pub(crate) use crate::params::param::ADAPTER;
pub(crate) use crate::params::param::Finite;
pub(crate) use crate::params::param::MODEL;
pub(crate) use crate::params::param::Param;
pub(crate) use crate::params::param::Presence;
pub(crate) use crate::params::param::SCRIPT;
pub(crate) use crate::params::param::TaskParams;
pub(crate) use crate::params::task::Task;
