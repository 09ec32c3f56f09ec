//! The interface through which parameters were given: command line, pipeline.toml, Python or Rust.

/// Where parameters were given. It decides how messages spell their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    Cli,
    Toml,
    Python,
    Rust,
}

impl Interface {
    /// `--lora-rank` on the command line, `lora_rank` elsewhere.
    pub fn spell(self, name: &str) -> String {
        match self {
            // A script's own parameters are given one by one: `--param name=value`.
            Interface::Cli if name == "params" => "--param".to_string(),
            Interface::Cli => format!("--{}", name.replace('_', "-")),
            _ => name.to_string(),
        }
    }

    /// A task: `finetune-lora` on the command line, `finetune_lora` elsewhere.
    pub fn spell_task(self, task: &str) -> String {
        if self == Interface::Cli { task.replace('_', "-") } else { task.to_string() }
    }

    /// How a switch is turned on: `--overwrite`, `overwrite = true` in pipeline.toml, `overwrite=True` in Python.
    pub fn switched_on(self, name: &str) -> String {
        match self {
            Interface::Cli => self.spell(name),
            Interface::Toml => format!("{name} = true"),
            Interface::Python => format!("{name}=True"),
            Interface::Rust => format!("{name}: true"),
        }
    }
}
