//! Where a server listens: its address and its port, or why not.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use anyhow::Result;

use crate::base::error;
use crate::base::error::{Error, Kind};
use crate::params::interface::Interface;

/// The address to listen on.
///
/// # Errors
/// Kind `usage`: there is no such host.
pub(crate) fn listen_address(host: &str, port: u16, interface: Interface) -> Result<SocketAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = (host, port).to_socket_addrs().ok().and_then(|mut all| all.next());
    found.ok_or_else(|| error::usage(format!("there is no address {host}; give {} one of this machine's", interface.spell("host"))))
}

/// Opens a port.
///
/// # Errors
/// Kind `usage` if the address is taken or not this machine's, otherwise `io`.
pub(crate) fn listen(address: &SocketAddr, interface: Interface) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|cause| {
        let port = interface.spell("port");
        match cause.kind() {
            io::ErrorKind::AddrInUse => {
                error::usage(format!("port {} is taken by another program; give {port} another (0 is any free one)", address.port()))
            }
            io::ErrorKind::PermissionDenied => {
                error::usage(format!("port {} is not allowed to this user; give {port} one above 1023", address.port()))
            }
            io::ErrorKind::AddrNotAvailable => {
                error::usage(format!("{} is not an address of this machine; change {}", address.ip(), interface.spell("host")))
            }
            _ => Error::new(Kind::Io, format!("cannot listen on {address}: {cause}")).into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_and_an_unknown_host_is_refused() {
        assert_eq!(listen_address("[::1]", 80, Interface::Cli).unwrap(), "[::1]:80".parse().unwrap());
        assert_eq!(Error::of(&listen_address("no.such.host.invalid", 80, Interface::Cli).unwrap_err()).kind, Kind::Usage);
    }

    #[test]
    fn a_port_that_is_taken_is_refused_with_the_parameter() {
        let taken = listen(&listen_address("127.0.0.1", 0, Interface::Cli).unwrap(), Interface::Cli).unwrap();
        let error = Error::of(&listen(&taken.local_addr().unwrap(), Interface::Cli).unwrap_err());
        assert!(error.kind == Kind::Usage && error.message.contains("give --port another"), "{}", error.message);
    }
}
