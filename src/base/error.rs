//! Errors and their kinds. The kind determines the exit code and the Python exception; the text is for the user.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of a failure.
///
/// | kind | meaning | exit code | Python |
/// |---|---|---|---|
/// | `usage` | a parameter, flag or name is wrong | 2 | `UsageError` (also a `ValueError`) |
/// | `input` | the user's data is wrong | 2 | `InputError` (also a `ValueError`) |
/// | `model` | the model is not available or not usable | 1 | `ModelError` |
/// | `setup` | Python or its packages are missing | 1 | `SetupError` |
/// | `busy` | another step holds the process or the session | 1 | `BusyError` |
/// | `io` | a file could not be read or written | 1 | `StorageError` |
/// | `script` | a script raised an exception | 1 | `ScriptError` |
/// | `proof` | a file is not the model that it was made from | 1 | `ProofError` |
/// | `interrupted` | Ctrl-C, SIGTERM or SIGHUP | 130, 143, 129 | `KeyboardInterrupt` |
/// | `internal` | a bug in Pyrust-NN | 1 | `InternalError` |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Usage,
    Input,
    Model,
    Setup,
    Busy,
    Io,
    Script,
    Proof,
    Interrupted,
    Internal,
}

impl Kind {
    /// Every kind, in the order of the table above.
    pub const ALL: [Kind; 10] = [
        Kind::Usage,
        Kind::Input,
        Kind::Model,
        Kind::Setup,
        Kind::Busy,
        Kind::Io,
        Kind::Script,
        Kind::Proof,
        Kind::Interrupted,
        Kind::Internal,
    ];

    /// The name used in `summary.json` and as `kind` of the Python exceptions.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::Input => "input",
            Kind::Model => "model",
            Kind::Setup => "setup",
            Kind::Busy => "busy",
            Kind::Io => "io",
            Kind::Script => "script",
            Kind::Proof => "proof",
            Kind::Interrupted => "interrupted",
            Kind::Internal => "internal",
        }
    }

    /// The kind with the name `name`.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The exit code of the process: 2 for wrong input, 130 after Ctrl-C, otherwise 1. See [`Error::exit_code`].
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage | Kind::Input => 2,
            Kind::Interrupted => 130,
            _ => 1,
        }
    }
}

/// A failure, as in `summary.json` and inside [`anyhow::Error`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    pub kind: Kind,
    /// What is wrong, where, why, and how to fix it, in this order.
    pub message: String,
    /// The causes, direct cause first.
    pub causes: Vec<String>,
    /// Python's traceback, if a script raised.
    pub traceback: Option<String>,
    /// The number of the signal that interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), causes: Vec::new(), traceback: None, signal: None }
    }

    /// Reads any error: its own kind if it has one, `io` for a file error, otherwise `internal`. The chain of contexts becomes the causes.
    pub fn of(error: &anyhow::Error) -> Error {
        let mut chain = error.chain().map(ToString::to_string);
        let message = chain.next().unwrap_or_default();
        let mut causes: Vec<String> = chain.collect();
        let inner = error.chain().find_map(|link| link.downcast_ref::<Error>());
        let kind = match inner {
            Some(inner) => {
                causes.extend(inner.causes.iter().cloned());
                inner.kind
            }
            None if error.chain().any(<dyn std::error::Error + 'static>::is::<std::io::Error>) => Kind::Io,
            None => Kind::Internal,
        };
        causes.dedup();
        let (traceback, signal) = inner.map_or((None, None), |inner| (inner.traceback.clone(), inner.signal));
        Error { kind, message, causes, traceback, signal }
    }

    /// The exit code of the process: that of the kind; after a signal 128 plus its number, as in a shell.
    pub fn exit_code(&self) -> u8 {
        match (self.kind, self.signal) {
            (Kind::Interrupted, Some(signal)) => u8::try_from(128 + signal).unwrap_or(130),
            _ => self.kind.exit_code(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// A wrong parameter, flag or name.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Error::new(Kind::Usage, message).into()
}

/// Wrong data.
pub fn input(message: impl Into<String>) -> anyhow::Error {
    Error::new(Kind::Input, message).into()
}

/// A model that is not available or not usable.
pub fn model(message: impl Into<String>) -> anyhow::Error {
    Error::new(Kind::Model, message).into()
}

/// Python or its packages are missing.
pub fn setup(message: impl Into<String>) -> anyhow::Error {
    Error::new(Kind::Setup, message).into()
}

/// Another step holds the process or the session.
pub fn busy(message: impl Into<String>) -> anyhow::Error {
    Error::new(Kind::Busy, message).into()
}

/// The name in `known` that is most similar to `wrong`.
pub fn did_you_mean<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(wrong, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn every_kind_is_known_by_its_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn the_chain_of_contexts_becomes_the_causes() {
        let error = Err::<(), _>(input("line 3: no list")).context("data.json cannot be read").unwrap_err();
        let error = Error::of(&error);
        assert_eq!((error.kind, error.message.as_str()), (Kind::Input, "data.json cannot be read"));
        assert_eq!(error.causes, ["line 3: no list"]);
    }

    #[test]
    fn a_file_error_is_io_and_anything_else_internal() {
        let missing: anyhow::Error = std::fs::read("/no/such/file").unwrap_err().into();
        assert_eq!(Error::of(&missing).kind, Kind::Io);
        assert_eq!(Error::of(&anyhow::anyhow!("odd")).kind, Kind::Internal);
    }
}
