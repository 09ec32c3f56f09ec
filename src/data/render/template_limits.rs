//! Limits of chat templates, which come with models of others: a template must not use all memory, run forever or overflow the stack.
//!
//! The largest templates of known models have 30 KB. Their renderings take some thousand steps of minijinja for a conversation, plus some
//! hundred for each message.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use minijinja::{Environment, Error, ErrorKind};

use crate::base::{signals, threads};

/// Bytes of a template.
pub(crate) const MAX_BYTES: usize = 1 << 18;
/// Operators in one expression: chains of some make minijinja compute each part again.
pub(crate) const MAX_OPERATORS: usize = 2000;
/// Steps of minijinja in one rendering. It counts 64 bytes of data as a step too, so this also bounds the memory.
pub(crate) const MAX_STEPS: u64 = 4_000_000;
/// Levels of lists and mappings that are written as JSON.
pub(crate) const MAX_DEPTH: usize = 200;
/// Bytes that JSON is indented by.
pub(crate) const MAX_INDENT: usize = 1000;
/// Bytes of a value as JSON.
pub(crate) const MAX_JSON: usize = 1 << 28;
/// minijinja descends once for each branch of a template, and for each level of a value: a loop can wrap one a million times. Only what is
/// used of it takes memory.
const STACK: usize = 1 << 30;

/// The longest rendering, if what it does is not counted in steps.
const LONGEST: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });
/// How often a wait checks for signals.
const POLL: Duration = Duration::from_millis(20);

/// Why a template is too large.
pub(crate) fn too_large(template: &str) -> Option<String> {
    if template.len() > MAX_BYTES {
        return Some(format!("has {} bytes; the limit is {MAX_BYTES}", template.len()));
    }
    let mut rest = template;
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let (operators, length) = operators(&rest[start + 2..]);
        if operators > MAX_OPERATORS {
            return Some(format!("has an expression with more than {MAX_OPERATORS} operators"));
        }
        rest = &rest[start + 2 + length..];
    }
    None
}

/// The number of operators in a tag, and the tag's length. Elements of lists and mappings do not count.
fn operators(tag: &str) -> (usize, usize) {
    let (mut count, mut quote, mut word) = (0, None, 0);
    let bytes = tag.as_bytes();
    for (at, byte) in bytes.iter().copied().enumerate() {
        let escaped = at > 0 && bytes[at - 1] == b'\\';
        match quote {
            Some(open) if byte == open && !escaped => quote = None,
            Some(_) => continue,
            None if byte == b'"' || byte == b'\'' => quote = Some(byte),
            None if (byte == b'}' || byte == b'%') && bytes.get(at + 1) == Some(&b'}') => return (count, at),
            None if b"+-*/%~|.[({<>=!".contains(&byte) => count += 1,
            None => {}
        }
        if !byte.is_ascii_alphanumeric() && byte != b'_' {
            count += usize::from(matches!(&tag[word..at], "and" | "or" | "not" | "if" | "is" | "in"));
            word = at + 1;
        }
    }
    (count, tag.len())
}

/// Why work did not end.
pub(crate) enum NotFinished {
    /// Ctrl-C or another signal. Whoever waits for the renderings reports it.
    Interrupted,
    TooLong,
    NoThread,
}

/// The result of `work` on a thread with a large stack, which nobody waits for any longer after a signal or a minute: minijinja counts no steps
/// within one operation, and a sum of lists that were doubled sixty times is one.
pub(crate) fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, NotFinished> {
    let (sender, receiver) = mpsc::channel();
    let started = Instant::now();
    if !threads::detach(STACK, move || drop(sender.send(work()))) {
        return Err(NotFinished::NoThread);
    }
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(result) => return Ok(result),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(NotFinished::NoThread),
            Err(mpsc::RecvTimeoutError::Timeout) if signals::pending() => return Err(NotFinished::Interrupted),
            Err(mpsc::RecvTimeoutError::Timeout) if started.elapsed() > LONGEST => return Err(NotFinished::TooLong),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Compiles a template, on a thread with a large stack unless it is `known` to need none.
pub(crate) fn compile(environment: &mut Environment<'static>, name: &'static str, template: String, known: bool) -> Result<(), Error> {
    if known {
        return environment.add_template_owned(name, template);
    }
    let failed = || Error::new(ErrorKind::SyntaxError, "no thread can be started to compile it");
    threads::with_stack(STACK, || environment.add_template_owned(name, template)).unwrap_or_else(|| Err(failed()))
}

/// Whether a rendering was stopped by a limit, and by which.
pub(crate) fn exceeded(cause: &Error) -> Option<String> {
    let mut link: Option<&(dyn std::error::Error + 'static)> = Some(cause);
    while let Some(error) = link {
        if let Some(error) = error.downcast_ref::<Error>() {
            if error.kind() == ErrorKind::OutOfFuel {
                return Some(format!("needs more than {MAX_STEPS} steps, or more than {} MB", MAX_STEPS * 64 / 1_000_000));
            }
            // Of minijinja's own: the depth of macros and includes, the length of a range, the size of a product.
            let detail = error.detail().unwrap_or_default();
            if detail.contains("recursion limit") || detail.contains("range has too many elements") {
                return Some(format!("exceeds a limit: {detail}"));
            }
        }
        if let Some(over) = error.downcast_ref::<OverLimit>() {
            return Some(over.0.clone());
        }
        link = error.source();
    }
    None
}

/// A limit of our own filters.
#[derive(Debug)]
struct OverLimit(String);

impl std::fmt::Display for OverLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OverLimit {}

/// The error of a filter that `what` stopped, such as "writes JSON of more than 10 bytes".
pub(crate) fn over_limit(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.clone()).with_source(OverLimit(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::render::template::ChatTemplate;

    fn rendered(template: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        match ChatTemplate::open(folder.path()) {
            Err(error) => format!("refused: {error}"),
            Ok(template) => match template.within_limits(&serde_json::json!([{"role": "user", "content": "hi"}]), &[], false) {
                Ok(()) => "within".into(),
                Err(error) => format!("stopped: {error}"),
            },
        }
    }

    #[test]
    fn templates_that_run_forever_or_use_all_memory_are_stopped() {
        let forever = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
        let doubling = "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}";
        let lists = "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}";
        for template in [
            forever,
            doubling,
            lists,
            "{{ 'x' * 10**9 }}",
            "{{ 'x'|indent(10**9) }}",
            "{{ [1]|tojson(indent=10**9) }}",
            "{{ ('x' * 10**6).replace('x', 'y' * 10**6) }}",
            "{{ '%1000000000d'|format(1) }}",
            "{{ '{:1000000000}'.format(1) }}",
            "{{ range(10**12)|list }}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{{ ('x' * 10**7)|list|tojson }}",
            "{{ (['x' * 10**6] * 10**4)|join(',') }}",
        ] {
            let end = rendered(template);
            assert!(end.starts_with("stopped: the chat template in "), "{template}: {end}");
        }
    }

    #[test]
    fn no_template_overflows_the_stack() {
        let half = MAX_BYTES / 2;
        let chain = |start: &str, link: &str, end: &str| format!("{start}{}{end}", link.repeat((MAX_BYTES - 100) / link.len()));
        let nested = |open: &str, middle: &str, close: &str| {
            let count = (half - 100) / open.len().max(close.len());
            format!("{{{{ {}{middle}{} }}}}", open.repeat(count), close.repeat(count))
        };
        for template in [
            chain("{{ 1", "+1", " }}"), chain("{{ a", "~a", " }}"), chain("{{ a", ".b", " }}"), chain("{{ a", "|f", " }}"), chain("{{ a", "[0]", " }}"),
            chain("{{ a", "()", " }}"), chain("{{ ", "not ", "a }}"), chain("{{ ", "-", "1 }}"), chain("{{ a", " and a", " }}"), chain("{{ 1", "==1", " }}"),
            chain("{{ 1", " if 1 else 1", " }}"), chain("{% if a %}", "{% elif a %}", "{% endif %}"), chain("", "{% if a %}", ""), chain("{{ 1", "**1", " }}"),
            nested("(", "1", ")"), nested("[", "1", "]"), nested("{1:", "1", "}"), chain("{{ a", " is b", " }}"), chain("{{ 1", "in 1 ", "}}"),
            "{% set n = namespace(s=[]) %}{% for a in range(1000) %}{% for b in range(400) %}{% set n.s = [n.s] %}{% endfor %}{% endfor %}{{ n.s == n.s }}".into(),
            "{% set n = namespace(s=[]) %}{% for a in range(1000) %}{% for b in range(400) %}{% set n.s = [n.s] %}{% endfor %}{% endfor %}{{ n.s|tojson }}".into(),
            "{% set n = namespace(s=[]) %}{% for a in range(1000) %}{% for b in range(400) %}{% set n.s = {'a': n.s} %}{% endfor %}{% endfor %}{{ n.s|string }}".into(),
            "{% set n = namespace(s=[]) %}{% for a in range(1000) %}{% for b in range(400) %}{% set n.s = {'a': n.s} %}{% endfor %}{% endfor %}{{ n.s|length }}".into(),
        ] {
            // A stack that overflows ends the process.
            assert!(!rendered(&template).is_empty());
        }
        let long = format!("{{{{ 1{} }}}}", "+1".repeat(40_000));
        assert!(rendered(&long).contains("more than 2000 operators"));
        assert!(rendered(&"x".repeat(MAX_BYTES + 1)).contains("the limit is 262144"));
        assert_eq!(rendered("{% for m in messages %}{{ m.role }}{% endfor %}"), "within");
    }
}
