//! The pages of the board: their templates, and what their answers say to a browser.

use std::sync::LazyLock;

use anyhow::Result;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::report::{SCRIPT as CURVES, STYLE, Templates, hash_source};

const TEMPLATES: [(&str, &str); 8] = [
    ("board.html", include_str!("board.html")),
    ("sessions.html", include_str!("sessions.html")),
    ("sessions_head.html", include_str!("sessions_head.html")),
    ("sessions_row.html", include_str!("sessions_row.html")),
    ("session.html", include_str!("session.html")),
    ("session_control.html", include_str!("session_control.html")),
    ("session_log.html", include_str!("session_log.html")),
    ("refused.html", include_str!("refused.html")),
];
const OWN_STYLE: &str = include_str!("board.css");
pub(crate) const SCRIPT: &str = include_str!("board.js");
/// Characters of a text.
const TEXT: usize = 4000;

static MADE: LazyLock<Result<Templates, String>> =
    LazyLock::new(|| Templates::new(&TEMPLATES, &format!("{STYLE}{OWN_STYLE}"), TEXT).map_err(|cause| format!("{cause:#}")));

/// What a browser may do on a page: load the board's own script, listen to the board, and nothing else.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let styles = format!("{} {}", hash_source(&format!("{STYLE}{OWN_STYLE}")), hash_source(STYLE));
    let curves = hash_source(CURVES); // of the report as one file
    let policy = format!(
        "default-src 'none'; style-src {styles}; script-src 'self' {curves}; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// A page or a part of one.
pub(crate) fn render(template: &str, values: &Value) -> Result<String> {
    MADE.as_ref().map_err(|cause| anyhow::anyhow!("{cause}"))?.render(template, values)
}

/// An answer with the headers of all pages.
pub(crate) fn answer(status: StatusCode, kind: &'static str, body: String) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    guard(&mut response);
    response
}

/// The headers of all answers.
pub(crate) fn guard(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    for (name, value) in [(X_CONTENT_TYPE_OPTIONS, "nosniff"), (REFERRER_POLICY, "no-referrer"), (CACHE_CONTROL, "no-store")] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// A whole page.
pub(crate) fn page(template: &str, values: &Value) -> Response {
    match render(template, values) {
        Ok(text) => answer(StatusCode::OK, "text/html; charset=utf-8", text),
        Err(cause) => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", format!("{cause:#}\n")),
    }
}

/// A page that says why there is no other. `root`: what the board's paths begin with; empty without the token, which then stays unknown.
pub(crate) fn refusal(status: StatusCode, message: &str, root: &str) -> Response {
    let values = json!({"root": root, "events": null, "status": status.as_u16(), "message": message, "heading": status.canonical_reason()});
    match render("refused.html", &values) {
        Ok(text) => answer(status, "text/html; charset=utf-8", text),
        Err(_) => answer(status, "text/plain; charset=utf-8", format!("{message}\n")),
    }
}
