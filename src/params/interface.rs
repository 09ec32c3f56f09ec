//! The interface through which parameters came: command line, pipeline.toml, Python or Rust.

/// Where parameters came from; decides how a message spells their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    Cli,
    Toml,
    Python,
    Rust,
}

impl Interface {
    /// `--lora-rank` for a command line, `lora_rank` elsewhere.
    pub fn spell(self, name: &str) -> String {
        match self {
            // One `--param name=value` for each of a script's own.
            Interface::Cli if name == "params" => "--param".to_string(),
            Interface::Cli => format!("--{}", name.replace('_', "-")),
            _ => name.to_string(),
        }
    }
}
