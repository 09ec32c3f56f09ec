//! Whether a name is that of a secret: `api_key` and `--hf-token` are, `max_tokens`, `pad_token` and `sort_key` are not.

/// What stands in place of a secret.
pub(crate) const REDACTED: &str = "<redacted>";

/// Words that make a name secret wherever its last word stands for the value itself.
const ALWAYS: [&str; 15] = [
    "password",
    "passwords",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "secret",
    "secrets",
    "credential",
    "credentials",
    "apikey",
    "apitoken",
    "authorization",
    "bearer",
    "cookie",
];

/// Ends of names that are written without separators.
const ENDS: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "apikey",
    "secretkey",
    "accesskey",
    "privatekey",
    "authtoken",
    "accesstoken",
    "apitoken",
    "hftoken",
];

/// Last words of names that are about a secret but do not hold it: `token_file`, `secret_name`.
const ABOUT: [&str; 28] = [
    "file", "path", "dir", "folder", "env", "var", "name", "names", "id", "ids", "type", "length", "len", "count", "size", "limit",
    "column", "field", "index", "policy", "rule", "required", "enabled", "url", "prefix", "suffix", "ttl", "expiry",
];

/// Words before `token` that make it a token of a text.
const TOKENS_OF_TEXT: [&str; 47] = [
    "pad",
    "padding",
    "eos",
    "bos",
    "unk",
    "sep",
    "cls",
    "mask",
    "special",
    "stop",
    "start",
    "end",
    "begin",
    "image",
    "audio",
    "video",
    "vision",
    "think",
    "thinking",
    "first",
    "last",
    "next",
    "previous",
    "per",
    "each",
    "assistant",
    "user",
    "system",
    "tool",
    "new",
    "prompt",
    "decoder",
    "forced",
    "word",
    "control",
    "added",
    "fim",
    "placeholder",
    "turn",
    "max",
    "min",
    "num",
    "null",
    "blank",
    "target",
    "split",
    "delimiter",
];

/// Words before `key` that make it a key of data.
const KEYS_OF_DATA: [&str; 46] = [
    "primary",
    "foreign",
    "sort",
    "sorting",
    "public",
    "group",
    "partition",
    "cache",
    "dict",
    "map",
    "text",
    "label",
    "id",
    "column",
    "row",
    "data",
    "dataset",
    "json",
    "message",
    "messages",
    "content",
    "role",
    "metric",
    "order",
    "index",
    "lookup",
    "search",
    "join",
    "unique",
    "prompt",
    "answer",
    "response",
    "question",
    "field",
    "attention",
    "query",
    "kv",
    "value",
    "input",
    "output",
    "state",
    "split",
    "dedup",
    "tensor",
    "target",
    "config",
];

/// Words before the plural `tokens`, and before `pass`, that make them secret.
const OF_ACCESS: [&str; 14] =
    ["api", "access", "auth", "refresh", "secret", "db", "database", "login", "admin", "root", "smtp", "ftp", "http", "proxy"];

/// Whether a parameter, flag or field of this name holds a secret.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let mut words = words_of(name);
    // `token_value` is the token itself.
    if words.len() > 1 && matches!(words.last().map(String::as_str), Some("value" | "string")) && words[words.len() - 2] != "key" {
        words.pop();
    }
    let Some((last, before)) = words.split_last() else { return false };
    let before = before.last().map(String::as_str);
    match last.as_str() {
        word if ALWAYS.contains(&word) || ENDS.iter().any(|end| word.ends_with(end)) => true,
        word if ABOUT.contains(&word) => false,
        "token" => before.is_none_or(|word| !TOKENS_OF_TEXT.contains(&word)),
        "key" => before.is_none_or(|word| !KEYS_OF_DATA.contains(&word)),
        "keys" => matches!(before, Some("api" | "access" | "secret" | "private")),
        "tokens" => before.is_some_and(|word| OF_ACCESS.contains(&word)),
        "pass" => before.is_none_or(|word| OF_ACCESS.contains(&word) || word == "user"),
        "auth" => before.is_none_or(|word| OF_ACCESS.contains(&word) || word == "basic"),
        _ => false,
    }
}

/// Whether the name alone is ambiguous in running text, where "token: 5" is rarely a secret.
pub(crate) fn is_ambiguous(name: &str) -> bool {
    matches!(words_of(name).as_slice(), [only] if matches!(only.as_str(), "token" | "key" | "pass" | "auth"))
}

/// The words of a name in lower case: `hfToken`, `hf-token`, `HF_TOKEN` and `hf.token` are `hf`, `token`.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for symbol in name.chars() {
        if !symbol.is_alphanumeric() || (symbol.is_uppercase() && was_lower) {
            words.push(String::new());
        }
        if let (true, Some(word)) = (symbol.is_alphanumeric(), words.last_mut()) {
            word.extend(symbol.to_lowercase());
        }
        was_lower = symbol.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::assets;

    #[test]
    fn names_of_secrets_are_told_from_names_of_text_and_data() {
        for secret in [
            "token",
            "key",
            "secret",
            "password",
            "credential",
            "credentials",
            "api_key",
            "API_KEY",
            "apiKey",
            "api-key",
            "apikey",
            "hf_token",
            "HF_TOKEN",
            "hfToken",
            "wandb_api_key",
            "openai_key",
            "access_token",
            "client_secret",
            "db_password",
            "userpassword",
            "aws_secret_access_key",
            "private_key",
            "auth_token",
            "api_tokens",
            "db_pass",
            "passphrase",
            "token_value",
            "auth.token",
            "Authorization",
            "my-secret",
        ] {
            assert!(is_secret_name(secret), "{secret}");
        }
        for plain in [
            "max_tokens",
            "pad_token",
            "eos_token",
            "tokenizer",
            "verify_tokens",
            "tokens",
            "token_file",
            "key_path",
            "tokenizer_path",
            "sort_key",
            "primary_key",
            "keyword",
            "keys",
            "monkey",
            "num_keys",
            "secret_name",
            "forward_pass",
            "passes",
            "compass",
            "key_value",
            "max_new_tokens",
            "token_ids",
            "tokens_per_second",
            "stop_token",
            "password_length",
            "author",
            "",
        ] {
            assert!(!is_secret_name(plain), "{plain}");
        }
    }

    #[test]
    fn no_word_of_the_sample_pipeline_is_a_secret() {
        for line in assets::text("pipeline.toml").unwrap_or_default().lines() {
            let name = line.split('=').next().unwrap_or_default().trim();
            assert!(!is_secret_name(name), "{line}");
        }
    }
}
