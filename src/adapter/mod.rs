//! Reads LoRA adapters of any tool: PEFT's old and new names, adapters trained on another class of the same model, and mlx-lm's.
//!
//! [`read`] takes a folder and, if it is known, the folder of the base model. It returns one canonical form, which all tasks use: PEFT's
//! configuration, the tensors under PEFT's names for the text model, and the rank and the scale of each pair. It reads only the headers of
//! safetensors files. What it converted is in `findings`; a tensor that fits nothing, and one that is missing, is an error.
//!
//! PEFT's names are those of `peft.utils.save_and_load`, mlx-lm's those of `mlx_lm/tuner/lora.py`.

mod base_tensors;
mod continued;
mod forms;
mod mlx;
mod reading;
mod settings;
mod tensor_name;

#[cfg(test)]
mod tests;

pub(crate) use continued::{check_continued, check_continued_folder};
pub(crate) use reading::read;
