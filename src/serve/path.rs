//! Which of llama.cpp's paths are passed on, and how. A path of a later release that is not here is refused: it might change the server,
//! or answer without the adapter.

use hyper::Method;

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Health,
    Models,
    /// One model of the list.
    Model,
    /// llama.cpp computes an answer, in a slot.
    Answer,
    /// Passed on to the model that its body names.
    Body,
    /// Passed on to the model that its query names: `?model=NAME`.
    Query,
}

const ANSWERS: [&str; 8] = [
    "/v1/chat/completions",
    "/chat/completions",
    "/v1/completions",
    "/completions",
    "/completion",
    "/infill",
    "/v1/messages",
    "/v1/responses",
];
/// llama.cpp rewrites the body and forgets which adapter and slot it is for.
const WITHOUT_ADAPTERS: &str = "/v1/messages";
const BODIES: [&str; 6] = [
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/v1/messages/count_tokens",
    "/v1/chat/completions/input_tokens",
    "/v1/responses/input_tokens",
];
const QUERIES: [&str; 2] = ["/props", "/metrics"];

/// Where a name of a model is in the path.
const MODEL: &str = "/v1/models/";

impl Route {
    /// The route of a request. `None`: there is none.
    pub(crate) fn of(method: &Method, path: &str) -> Option<Route> {
        match (method, path) {
            (&Method::GET, "/health" | "/v1/health") => Some(Route::Health),
            (&Method::GET, "/v1/models" | "/models") => Some(Route::Models),
            (&Method::GET, path) if path.starts_with(MODEL) => Some(Route::Model),
            (&Method::GET, path) if QUERIES.contains(&path) => Some(Route::Query),
            (&Method::POST, path) if ANSWERS.contains(&path) => Some(Route::Answer),
            (&Method::POST, path) if BODIES.contains(&path) => Some(Route::Body),
            _ => None,
        }
    }
}

/// Whether an answer by this path can be told its adapter.
pub(crate) fn knows_adapters(path: &str) -> bool {
    path != WITHOUT_ADAPTERS
}

/// The model's name in the path of [`Route::Model`].
pub(crate) fn name_in_path(path: &str) -> String {
    decoded(path.trim_start_matches(MODEL))
}

/// The parameter `model` of a query.
pub(crate) fn name_in_query(query: Option<&str>) -> Option<String> {
    query?.split('&').find_map(|pair| pair.strip_prefix("model=")).map(|value| decoded(&value.replace('+', "%20")))
}

/// Text with `%2F` and the like replaced.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let hex = |at: usize| more.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &more[2..];
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_paths_are_passed_on() {
        assert_eq!(Route::of(&Method::POST, "/v1/chat/completions"), Some(Route::Answer));
        assert_eq!(Route::of(&Method::GET, "/v1/models/s1/convert"), Some(Route::Model));
        for (method, path) in [
            (Method::POST, "/lora-adapters"),
            (Method::POST, "/slots/0"),
            (Method::GET, "/cors-proxy"),
            (Method::POST, "/props"),
            (Method::GET, "/"),
        ] {
            assert_eq!(Route::of(&method, path), None, "{path}");
        }
    }

    #[test]
    fn names_are_decoded() {
        assert_eq!(name_in_path("/v1/models/s1%2Fconvert%3aq8_0"), "s1/convert:q8_0");
        assert_eq!(name_in_query(Some("a=1&model=a+b%2")), Some("a b%2".into()));
        assert_eq!((name_in_query(Some("models=x")), name_in_query(None)), (None, None));
    }
}
