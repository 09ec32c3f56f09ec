//! Whether this machine can have the GPU that a step names, as the kernel tells it. What only torch knows, [`check_device_in_python`] asks it.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error;
use crate::params::interface::Interface;
use crate::python;

/// Files of a GPU's driver: NVIDIA's, NVIDIA's on WSL, AMD's.
const DRIVERS: [&str; 5] = ["/proc/driver/nvidia", "/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd"];

/// Whether torch may see a GPU. If false, the kernel has no driver of any, or the environment hides all.
pub(crate) fn may_have_gpu() -> bool {
    let hidden = std::env::var("CUDA_VISIBLE_DEVICES").is_ok_and(|list| ["", "-1"].contains(&list.trim()));
    !hidden && DRIVERS.iter().any(|path| Path::new(path).exists())
}

/// The device of a step, if it is a GPU that the user names.
fn named_gpu(params: &Map<String, Value>) -> Option<&str> {
    params.get("device").and_then(Value::as_str).filter(|device| device.starts_with("cuda"))
}

/// Refuses a GPU that cannot be there. Needs no Python.
///
/// # Errors
/// Kind `input`, as by torch.
pub(crate) fn check_device(params: &Map<String, Value>, interface: Interface) -> Result<()> {
    match named_gpu(params) {
        Some(device) if !may_have_gpu() => Err(error::input(format!(
            "{} {device}: there is no GPU here, or none that may be used; use auto or cpu, `pyrust-nn doctor` says more",
            interface.spell("device")
        ))),
        _ => Ok(()),
    }
}

/// Has torch look for the GPU that a step names. That imports torch, which the step needs anyway.
///
/// # Errors
/// Kind `input`: there is no such GPU. Kind `setup`: there is no Python.
pub(super) fn check_device_in_python(params: &Map<String, Value>) -> Result<()> {
    named_gpu(params).map_or(Ok(()), python::check_device)
}
