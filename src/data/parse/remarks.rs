//! What a reader converted or ignored: nothing that is given disappears without a word.

/// A conversion, or an oddity that is accepted. Each is counted per conversation and logged once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    DecodedArguments,
    DecodedJsonText,
    FunctionCall,
    FunctionDescriptions,
    JoinedCalls,
    SystemField,
    DeveloperRole,
    FunctionRole,
    EmptySystem,
    PlainText,
    Context,
    OthersTrained,
}

impl Remark {
    pub const ALL: [Remark; 12] = [
        Remark::DecodedArguments,
        Remark::DecodedJsonText,
        Remark::FunctionCall,
        Remark::FunctionDescriptions,
        Remark::JoinedCalls,
        Remark::SystemField,
        Remark::DeveloperRole,
        Remark::FunctionRole,
        Remark::EmptySystem,
        Remark::PlainText,
        Remark::Context,
        Remark::OthersTrained,
    ];

    /// Whether it may be a mistake, and not only another way to write the same.
    pub fn is_warning(self) -> bool {
        matches!(self, Remark::EmptySystem | Remark::OthersTrained)
    }

    /// Words that follow "3 conversations: ".
    pub fn text(self) -> &'static str {
        match self {
            Remark::DecodedArguments => "arguments of tool calls were JSON text and are decoded to objects",
            Remark::DecodedJsonText => "a field was JSON text and is decoded",
            Remark::FunctionCall => "function_call is converted to tool_calls",
            Remark::FunctionDescriptions => "functions are converted to tools",
            Remark::JoinedCalls => "consecutive function_call turns are joined to one turn with several calls",
            Remark::SystemField => "a system prompt beside the messages becomes the first message",
            Remark::DeveloperRole => "the role developer is read as system",
            Remark::FunctionRole => "the role function is read as tool",
            Remark::EmptySystem => "a system message is empty; with some templates it replaces the default system prompt",
            Remark::PlainText => {
                "plain text, without a chat template: all of it is trained on, special tokens in it count, and the end-of-text token is added"
            }
            Remark::OthersTrained => "train, loss or weight asks to train on turns of others; only the assistant's turns are trained on",
            Remark::Context => "the input or context is appended to the question, after a line break",
        }
    }
}

/// The remarks on one conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    made: u16,
    /// Names of keys that nothing reads.
    pub ignored: Vec<String>,
    /// Which of the columns that the parameter `columns` names it has, in their order, as bits.
    pub columns: u16,
}

impl Remarks {
    pub fn add(&mut self, remark: Remark) {
        self.made |= 1 << remark as u16;
    }

    pub fn made(&self) -> impl Iterator<Item = Remark> + use<> {
        let made = self.made;
        Remark::ALL.into_iter().filter(move |remark| made & (1 << *remark as u16) != 0)
    }

    /// Adds an ignored key.
    pub fn ignore(&mut self, key: &str) {
        const KEPT: usize = 32;
        if self.ignored.len() < KEPT {
            self.ignored.push(key.to_string());
        }
    }
}
