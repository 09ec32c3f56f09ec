//! Who may ask: a request with the key. Without one only programs of this machine, and no page of another site: a browser sends what any
//! page asks to this machine's own address, and a site may let its name point there (DNS rebinding).

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use hyper::{StatusCode, Uri};
use sha2::{Digest, Sha256};

use crate::base::error;
use crate::params::interface::Interface;
use crate::serve::refusal::Refusal;

/// Whom requests may come from.
#[derive(Debug)]
pub(crate) struct Access {
    /// The key's hash. Hashes are compared, so the time tells nothing about the key.
    key: Option<[u8; 32]>,
}

impl Access {
    /// Access with a key, or without one.
    ///
    /// # Errors
    /// Kind `usage`: other machines could ask without a key, or it cannot stand in a header.
    pub(crate) fn new(key: Option<&str>, address: &SocketAddr, interface: Interface) -> Result<Access> {
        let name = interface.spell("api_key");
        match key {
            Some(key) if !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err(error::usage(format!("the API key has spaces or other characters that no header can hold; give {name} another")))
            }
            None if !address.ip().is_loopback() => Err(error::usage(format!(
                "{} can be reached from other machines, so a key is needed; set PYRUST_NN_API_KEY or {name}, or leave out {}",
                address.ip(),
                interface.spell("host")
            ))),
            key => Ok(Access { key: key.map(hash) }),
        }
    }

    /// Refuses a request that may not be answered.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(key) = self.key else { return check_local(headers) };
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text(AUTHORIZATION.as_str()).and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
        });
        // The second one is Anthropic's.
        let given = bearer.or_else(|| text("x-api-key"));
        match given {
            Some(given) if hash(given) == key => Ok(()),
            Some(_) => Err(refuse("the API key is wrong")),
            None => Err(refuse("there is no API key; send it as `Authorization: Bearer KEY`")),
        }
    }
}

fn refuse(message: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Refuses what names another host, or comes from another site's page.
fn check_local(headers: &HeaderMap) -> Result<(), Refusal> {
    for (name, what) in [(HOST, "asked for another host"), (ORIGIN, "comes from another site's page")] {
        let Some(value) = headers.get(&name) else { continue };
        let host = value.to_str().ok().and_then(|text| text.parse::<Uri>().ok()).and_then(|uri| uri.host().map(ToString::to_string));
        if !host.is_some_and(|host| is_local(&host)) {
            let message = format!("the request {what} ({}); set an API key to allow it", String::from_utf8_lossy(value.as_bytes()));
            return Err(Refusal::new(StatusCode::FORBIDDEN, "not_local", message));
        }
    }
    Ok(())
}

fn is_local(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::base::error::{Error, Kind};

    fn headers(given: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        given.iter().map(pair).collect()
    }

    #[test]
    fn the_key_is_needed_and_only_it_is_accepted() {
        let access = Access::new(Some("abc123"), &"0.0.0.0:1".parse().unwrap(), Interface::Cli).unwrap();
        for accepted in [("authorization", "Bearer abc123"), ("authorization", "bearer  abc123"), ("x-api-key", "abc123")] {
            access.check(&headers(&[accepted])).unwrap();
        }
        for refused in [("authorization", "Bearer abc"), ("authorization", "abc123"), ("x-api-key", ""), ("host", "localhost")] {
            assert_eq!(access.check(&headers(&[refused])).unwrap_err().status, StatusCode::UNAUTHORIZED, "{refused:?}");
        }
    }

    #[test]
    fn without_a_key_only_this_machine_may_ask() {
        let access = Access::new(None, &"[::1]:1".parse().unwrap(), Interface::Cli).unwrap();
        for host in ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "127.9.9.9"] {
            access.check(&headers(&[("host", host)])).unwrap();
        }
        access.check(&headers(&[("host", "localhost"), ("origin", "http://localhost:3000")])).unwrap();
        for wrong in
            [("host", "evil.example:8080"), ("host", "127.0.0.1.evil.example"), ("origin", "https://evil.example"), ("origin", "null")]
        {
            assert_eq!(access.check(&headers(&[wrong])).unwrap_err().status, StatusCode::FORBIDDEN, "{wrong:?}");
        }
    }

    #[test]
    fn other_machines_need_a_key() {
        let error = Error::of(&Access::new(None, &"0.0.0.0:8080".parse().unwrap(), Interface::Cli).unwrap_err());
        assert!(error.kind == Kind::Usage && error.message.contains("PYRUST_NN_API_KEY or --api-key"), "{}", error.message);
        assert!(Access::new(Some("a b"), &"127.0.0.1:1".parse().unwrap(), Interface::Cli).is_err());
    }
}
