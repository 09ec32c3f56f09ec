//! Passes a request on to llama.cpp, and its answer back as it comes. Each request has a connection of its own, which closes when the
//! client goes away: that ends llama.cpp's work on it.

use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::handshake;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::python::LlamaAddress;
use crate::serve::backend::ModelBackend;
use crate::serve::refusal::{AnswerBody, Refusal};
use crate::serve::request_record::RequestRecord;
use crate::serve::slots::SlotLease;

/// What is passed on.
pub(crate) struct Forwarded {
    pub(crate) method: Method,
    /// Without a query.
    pub(crate) path: String,
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) accept: Option<HeaderValue>,
    pub(crate) body: Bytes,
}

/// Closes the connection to llama.cpp when it is dropped.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Headers that are about one connection only (RFC 9110, 7.6.1), and llama.cpp's name and rules for pages of other sites.
const DROPPED: [&str; 8] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];
const OF_LLAMA: [&str; 5] = [
    "server",
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
    "access-control-allow-headers",
];

/// llama.cpp's answer, whose body is still to come.
pub(crate) struct PassedAnswer {
    answer: Response<Incoming>,
    connection: Connection,
    lease: Option<SlotLease>,
}

/// Sends a request to a model. If its llama.cpp ends before the answer begins and is started again, the request is sent again.
pub(crate) async fn forward(backend: &ModelBackend, request: Forwarded, lease: Option<SlotLease>) -> Result<PassedAnswer, Refusal> {
    let (start, address) = backend.running()?;
    let (answer, connection) = match send(&address, &request).await {
        Ok(answered) => answered,
        Err(_) => {
            let (_, address) = backend.next(start).await?;
            let failed = |cause| Refusal::new(StatusCode::BAD_GATEWAY, "llama_cpp_failed", format!("llama.cpp failed to answer: {cause}"));
            send(&address, &request).await.map_err(failed)?
        }
    };
    Ok(PassedAnswer { answer, connection, lease })
}

impl PassedAnswer {
    /// The answer for the client, which is recorded while it passes.
    pub(crate) fn recorded(self, mut record: RequestRecord) -> Response<AnswerBody> {
        let (mut parts, body) = self.answer.into_parts();
        record.status(parts.status);
        for name in DROPPED.iter().chain(&OF_LLAMA) {
            parts.headers.remove(*name);
        }
        let body = PassedBody { body, record, _connection: self.connection, _lease: self.lease };
        Response::from_parts(parts, body.boxed_unsync())
    }
}

/// Sends a request. The answer's body follows.
async fn send(address: &LlamaAddress, request: &Forwarded) -> Result<(Response<Incoming>, Connection), Box<dyn StdError + Send + Sync>> {
    let stream = TcpStream::connect(&address.host).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
    let mut sent = Request::new(Full::new(request.body.clone()));
    *sent.method_mut() = request.method.clone();
    *sent.uri_mut() = request.path.parse()?;
    let headers = sent.headers_mut();
    headers.insert(HOST, address.host.parse()?);
    headers.insert(AUTHORIZATION, format!("Bearer {}", address.key).parse()?);
    insert(headers, CONTENT_TYPE, request.content_type.as_ref());
    insert(headers, ACCEPT, request.accept.as_ref());
    Ok((sender.send_request(sent).await?, connection))
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: Option<&HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name, value.clone());
    }
}

/// An answer of llama.cpp while it passes.
struct PassedBody {
    body: Incoming,
    record: RequestRecord,
    _connection: Connection,
    _lease: Option<SlotLease>,
}

impl Body for PassedBody {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.record.answer.push(data);
                }
            }
            Some(Err(_)) => self.record.broken(),
            None => self.record.whole(),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for PassedBody {
    fn drop(&mut self) {
        // Nobody asks for the end of a body of a known length.
        if self.body.is_end_stream() {
            self.record.whole();
        }
    }
}
