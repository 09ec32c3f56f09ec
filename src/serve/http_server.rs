//! Connections of clients: accepted, answered, closed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::serve::gateway::{Gateway, Phase};

/// The most connections at once. Others wait to be accepted.
const MOST_CONNECTIONS: usize = 512;

/// How long the head of a request may take, and a connection may be idle.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// How long connections may take to send what they have at the end.
const FLUSH_TIME: Duration = Duration::from_secs(30);

/// How long to wait when a connection cannot be accepted, because there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers until the server is closed. While it drains, the last answer in flight closes it.
pub(crate) async fn serve_connections(listener: TcpListener, gateway: Arc<Gateway>) {
    let mut phase = gateway.phase.subscribe();
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    let drained = tokio::spawn(close_when_drained(Arc::clone(&gateway)));
    loop {
        tokio::select! {
            _ = phase.wait_for(|phase| *phase == Phase::Closed) => break,
            (stream, permit) = accept(&listener, &permits) => {
                let gateway = Arc::clone(&gateway);
                connections.spawn(async move {
                    connection(stream, gateway).await;
                    drop(permit);
                });
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drained.abort();
    drop(listener);
    let flushed = async { while connections.join_next().await.is_some() {} };
    drop(tokio::time::timeout(FLUSH_TIME, flushed).await);
}

async fn close_when_drained(gateway: Arc<Gateway>) {
    let (mut phase, mut in_flight) = (gateway.phase.subscribe(), gateway.in_flight.subscribe());
    drop(phase.wait_for(|phase| *phase >= Phase::Draining).await);
    drop(in_flight.wait_for(|count| *count == 0).await);
    gateway.phase.send_replace(Phase::Closed);
}

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    let permit = Arc::clone(permits).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(cause) if cause.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(stream: TcpStream, gateway: Arc<Gateway>) {
    drop(stream.set_nodelay(true)); // parts of a stream are small, and are sent at once
    let mut phase = gateway.phase.subscribe();
    let service = service_fn(move |request| {
        let gateway = Arc::clone(&gateway);
        async move { gateway.answer(request).await }
    });
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut closing = false;
    loop {
        tokio::select! {
            // A client that breaks off is logged with its request.
            _ = connection.as_mut() => return,
            _ = phase.wait_for(|phase| *phase == Phase::Closed), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
