//! The addresses of the board, all below its token, and what is answered.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as InPath, RawQuery, Request, State};
use axum::http::{StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Redirect, Response, Sse};
use axum::routing::{get, post};
use form_urlencoded::parse;
use futures_util::stream::unfold;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::base::error::{Error, Kind};
use crate::base::own_program::Program;
use crate::board::control::{resume, stop};
use crate::board::list_query::{ListQuery, STATES};
use crate::board::live::{Live, View, version};
use crate::board::pages::{SCRIPT, answer, guard, page, refusal};
use crate::board::session_view::LowestLevel;
use crate::report::{Comparison, SCRIPT as CURVES, compare, report_page};
use crate::session::existing_session::existing_session;

/// How often a stream without news says that it is still there.
const ALIVE: Duration = Duration::from_secs(15);
/// Sessions that can be compared.
const MOST_COMPARED: usize = 50;

/// What all answers need.
#[derive(Debug)]
pub(crate) struct BoardState {
    live: Arc<Live>,
    program: Program,
    /// Hashes are compared, so the time tells nothing about the token.
    token: [u8; 32],
}

impl BoardState {
    pub(crate) fn new(token: &str, live: Arc<Live>, program: Program) -> BoardState {
        BoardState { live, program, token: Sha256::digest(token).into() }
    }
}

type Shared = State<Arc<BoardState>>;

/// All addresses.
pub(crate) fn routes(state: Arc<BoardState>) -> Router {
    Router::new()
        .route("/{token}", get(to_the_list))
        .route("/{token}/", get(sessions))
        .route("/{token}/events", get(sessions_events))
        .route("/{token}/board.js", get(script))
        .route("/{token}/curves.js", get(curves_script))
        .route("/{token}/compare", get(compared))
        .route("/{token}/session/{session}", get(session))
        .route("/{token}/session/{session}/events", get(session_events))
        .route("/{token}/session/{session}/report.html", get(report))
        .route("/{token}/session/{session}/stop", post(stopped))
        .route("/{token}/session/{session}/resume", post(resumed))
        .fallback(unknown)
        .layer(from_fn_with_state(Arc::clone(&state), check_token))
        .with_state(state)
}

/// Refuses every request without the token: the first part of its path.
async fn check_token(State(state): Shared, request: Request, next: Next) -> Response {
    let given = request.uri().path().split('/').nth(1).unwrap_or_default();
    if <[u8; 32]>::from(Sha256::digest(given)) != state.token {
        let message = "This board answers at the address that `pyrust-nn board` printed, which holds its token.";
        return refusal(StatusCode::UNAUTHORIZED, message, "");
    }
    let mut response = next.run(request).await;
    guard(&mut response);
    response
}

/// Runs work that reads files, which must not delay other answers. Its error becomes a page.
async fn blocking(state: &Arc<BoardState>, work: impl FnOnce(&BoardState) -> anyhow::Result<Response> + Send + 'static) -> Response {
    let shared = Arc::clone(state);
    let failed = |cause: &anyhow::Error| {
        let error = Error::of(cause);
        let status = match error.kind {
            Kind::Usage if error.message.starts_with("there is no session") => StatusCode::NOT_FOUND,
            Kind::Usage | Kind::Busy => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        refusal(status, &error.message, &state.live.root)
    };
    match tokio::task::spawn_blocking(move || work(&shared)).await {
        Ok(Ok(response)) => response,
        Ok(Err(cause)) => failed(&cause),
        Err(_) => {
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "The program has a fault here; other pages are not affected.", &state.live.root)
        }
    }
}

async fn unknown(State(state): Shared, uri: Uri) -> Response {
    let path = uri.path().trim_start_matches(state.live.root.as_str());
    refusal(StatusCode::NOT_FOUND, &format!("There is no page {path} here."), &state.live.root)
}

async fn to_the_list(State(state): Shared) -> Redirect {
    Redirect::permanent(&format!("{}/", state.live.root))
}

async fn script() -> Response {
    answer(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT.into())
}

async fn curves_script() -> Response {
    answer(StatusCode::OK, "text/javascript; charset=utf-8", CURVES.into())
}

/// A value of a query.
fn value(query: Option<&str>, wanted: &str) -> Option<String> {
    parse(query?.as_bytes()).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}

fn level(query: Option<&str>) -> LowestLevel {
    LowestLevel::of(&value(query, "level").unwrap_or_default())
}

async fn sessions(State(state): Shared, RawQuery(query): RawQuery) -> Response {
    blocking(&state, move |state| {
        let query = ListQuery::of(&query.unwrap_or_default());
        let (live, parts) = (&state.live, state.live.parts(&View::Sessions(query.clone()))?);
        Ok(page(
            "sessions.html",
            &json!({
                "root": live.root,
                "runs": from_home(&live.runs),
                "events": format!("{}/events?{}", live.root, query.text()),
                "parts_version": version(&parts),
                "parts": parts.iter().map(|part| part.html.as_str()).collect::<String>(),
                "query": {"q": query.search, "state": query.state, "text": query.text()},
                "states": STATES,
            }),
        ))
    })
    .await
}

async fn session(State(state): Shared, InPath((_, name)): InPath<(String, String)>, RawQuery(query): RawQuery) -> Response {
    blocking(&state, move |state| {
        let notice = match value(query.as_deref(), "sent").as_deref() {
            Some("stop") => {
                Some("The session was asked to stop. A training with save_steps finishes its step and saves a checkpoint first.")
            }
            Some("resume") => Some("The session is being resumed, in a process of its own."),
            _ => None,
        };
        let level = level(query.as_deref());
        let (live, parts) = (&state.live, state.live.parts(&View::Session { name: name.clone(), level })?);
        Ok(page(
            "session.html",
            &json!({
                "root": live.root,
                "session": name,
                "notice": notice,
                "events": format!("{}/session/{name}/events?level={}", live.root, level.name()),
                "parts_version": version(&parts),
                "parts": parts.iter().map(|part| part.html.as_str()).collect::<String>(),
            }),
        ))
    })
    .await
}

async fn sessions_events(State(state): Shared, RawQuery(query): RawQuery) -> Response {
    let view = View::Sessions(ListQuery::of(query.as_deref().unwrap_or_default()));
    events(&state.live, &view, value(query.as_deref(), "shown"))
}

async fn session_events(State(state): Shared, InPath((_, name)): InPath<(String, String)>, RawQuery(query): RawQuery) -> Response {
    if let Err(cause) = existing_session(&state.live.runs, &name) {
        return refusal(StatusCode::NOT_FOUND, &cause.to_string(), &state.live.root);
    }
    let view = View::Session { name, level: level(query.as_deref()) };
    events(&state.live, &view, value(query.as_deref(), "shown"))
}

/// The changes of a view as server-sent events, from the version `shown`, which a page says of itself.
fn events(live: &Live, view: &View, shown: Option<String>) -> Response {
    let mut receiver = live.subscribe(view);
    // What was rendered for other pages may be newer than this page.
    receiver.mark_changed();
    let stream = unfold((receiver, shown.unwrap_or_default()), |(mut receiver, mut shown)| async move {
        loop {
            receiver.changed().await.ok()?;
            let snapshot = receiver.borrow_and_update().clone();
            let Some(snapshot) = snapshot else { continue };
            let Some(message) = snapshot.message_from(&shown) else { continue };
            shown = snapshot.version().to_string();
            return Some((Ok::<_, Infallible>(Event::default().data(message)), (receiver, shown)));
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(ALIVE)).into_response()
}

async fn report(State(state): Shared, InPath((_, name)): InPath<(String, String)>) -> Response {
    blocking(&state, move |state| Ok(answer(StatusCode::OK, "text/html; charset=utf-8", report_page(&state.live.runs, &name)?))).await
}

async fn compared(State(state): Shared, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    for (name, value) in parse(query.as_bytes()) {
        if name == "s" && !names.contains(&value.clone().into_owned()) {
            names.push(value.into_owned());
        }
    }
    if !(2..=MOST_COMPARED).contains(&names.len()) {
        let message = format!("Tick 2 to {MOST_COMPARED} sessions in the list to compare them; {} are ticked.", names.len());
        return refusal(StatusCode::BAD_REQUEST, &message, &state.live.root);
    }
    blocking(&state, move |state| {
        let mut values = compare(&state.live.runs, &names)?.values();
        values["layout"] = "board.html".into();
        values["root"] = state.live.root.clone().into();
        values["events"] = serde_json::Value::Null;
        Ok(page(Comparison::TEMPLATE, &values))
    })
    .await
}

async fn stopped(State(state): Shared, InPath((_, name)): InPath<(String, String)>) -> Response {
    controlled(&state, name, "stop", |state, name| stop(&state.live.runs, name)).await
}

async fn resumed(State(state): Shared, InPath((_, name)): InPath<(String, String)>) -> Response {
    controlled(&state, name, "resume", |state, name| resume(&state.live.runs, name, &state.program)).await
}

async fn controlled(
    state: &Arc<BoardState>,
    name: String,
    what: &'static str,
    act: impl FnOnce(&BoardState, &str) -> anyhow::Result<()> + Send + 'static,
) -> Response {
    if !state.live.allow_control {
        let message = format!("This board only shows. To {what} sessions here, start it with --allow-control.");
        return refusal(StatusCode::FORBIDDEN, &message, &state.live.root);
    }
    blocking(state, move |state| {
        act(state, &name)?;
        Ok(Redirect::to(&format!("{}/session/{name}?sent={what}", state.live.root)).into_response())
    })
    .await
}

/// A path as shells show it: `~` stands for the user's home.
fn from_home(path: &Path) -> String {
    let home = std::env::home_dir().filter(|home| home.components().count() > 1);
    match home.and_then(|home| path.strip_prefix(home).ok().map(Path::to_path_buf)) {
        Some(rest) => Path::new("~").join(rest).display().to_string(),
        None => path.display().to_string(),
    }
}
