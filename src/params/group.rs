//! The groups of parameters, in the order in which the command line's help shows them.

/// What a parameter is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The input of a task.
    Model,
    Data,
    Training,
    Lora,
    Evaluation,
    Generation,
    Script,
    Report,
    Server,
    Output,
    Memory,
    Session,
    /// Options of every command.
    Global,
}

impl Group {
    /// The heading above the group.
    pub const fn heading(self) -> &'static str {
        match self {
            Group::Model => "Model",
            Group::Data => "Data",
            Group::Training => "Training",
            Group::Lora => "LoRA",
            Group::Evaluation => "Evaluation",
            Group::Generation => "Prompts and answers",
            Group::Script => "Script",
            Group::Report => "Report",
            Group::Server => "Server",
            Group::Output => "Output",
            Group::Memory => "Memory and speed",
            Group::Session => "Session",
            Group::Global => "Global options",
        }
    }
}
