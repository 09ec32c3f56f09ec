//! `--offline` for the process of the command line and all its children: connections to other machines fail, whatever program makes them.
//!
//! A seccomp filter (Linux 5.5 or later) sees the arguments of a system call, but not the address that `connect` points to. So it refuses
//! by itself what needs no address: sockets of other kinds than TCP, Unix and netlink, `MSG_FASTOPEN` and io_uring. For `connect` it asks
//! a thread of this process (`SECCOMP_RET_USER_NOTIF`), which reads the address and allows the loopback interface only.
//!
//! A filter cannot be removed, and it applies to threads and processes that are started later. So it is never installed in a host's process.
//! It stops programs, not attackers: a program that changes the address in memory between the check and the call gets through.

use std::sync::OnceLock;

/// Why this process cannot be made offline. `None` after [`deny_network`] has succeeded.
static STATE: OnceLock<Option<String>> = OnceLock::new();

/// Denies the network to this thread, and to the threads and processes that it starts later. Connections to loopback addresses stay allowed.
pub fn deny_network() {
    STATE.get_or_init(|| filter::install().err());
}

/// Logs what holds for an offline step.
pub fn log_scope() {
    let partly = "offline: Python's own connections to other machines are refused, but not those of programs that it starts";
    match STATE.get() {
        Some(None) => info!("offline: connections to other machines are refused, those of child processes too"),
        Some(Some(why)) => warning!("{partly}: {why}"),
        None => info!("{partly}"),
    }
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod filter {
    pub(super) fn install() -> Result<(), String> {
        Err("this system has no seccomp filters".into())
    }
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod filter {
    use std::io;
    use std::mem::{offset_of, size_of, zeroed};
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::os::fd::RawFd;
    use std::sync::mpsc;

    use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long, sock_filter};
    use libc::{seccomp_data, seccomp_notif, seccomp_notif_resp};

    #[cfg(target_arch = "x86_64")]
    const ARCHITECTURE: u32 = 0xC000_003E; // AUDIT_ARCH_X86_64
    #[cfg(target_arch = "aarch64")]
    const ARCHITECTURE: u32 = 0xC000_00B7; // AUDIT_ARCH_AARCH64

    /// The longest address, that of a Unix socket.
    const ADDRESS_SIZE: usize = size_of::<libc::sockaddr_un>();

    /// Installs the filter and starts the thread that answers it.
    pub(super) fn install() -> Result<(), String> {
        let (send, receive) = mpsc::channel::<RawFd>();
        // Started before the filter is installed, so that it does not apply to this thread.
        let answering = move || receive.recv().map_or((), answer_all);
        std::thread::Builder::new()
            .name("offline".into())
            .spawn(answering)
            .map_err(|cause| format!("no thread can be started ({cause})"))?;
        let listener = set_filter().map_err(|cause| format!("the kernel refuses a seccomp filter ({cause})"))?;
        send.send(listener).map_err(|_| "the thread that checks addresses has ended".to_string())
    }

    fn set_filter() -> io::Result<RawFd> {
        let mut program = program();
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the program outlives the call, which copies it.
        let listener = unsafe {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER, &raw const program)
        };
        if listener < 0 { Err(io::Error::last_os_error()) } else { Ok(listener as RawFd) }
    }

    fn op(code: u32, k: u32) -> sock_filter {
        sock_filter { code: code as u16, jt: 0, jf: 0, k }
    }

    fn load(offset: usize) -> sock_filter {
        op(BPF_LD | BPF_W | BPF_ABS, offset as u32)
    }

    /// The lower half of an argument of the system call.
    fn load_argument(number: usize) -> sock_filter {
        load(offset_of!(seccomp_data, args) + 8 * number)
    }

    /// Skips the next `count` instructions unless the comparison holds.
    fn unless(comparison: u32, k: u32, count: u8) -> sock_filter {
        sock_filter { code: (BPF_JMP | comparison | BPF_K) as u16, jt: 0, jf: count, k }
    }

    fn give(action: u32) -> sock_filter {
        op(BPF_RET | BPF_K, action)
    }

    fn fail(errno: i32) -> sock_filter {
        give(libc::SECCOMP_RET_ERRNO | errno as u32)
    }

    fn allow() -> sock_filter {
        give(libc::SECCOMP_RET_ALLOW)
    }

    fn program() -> Vec<sock_filter> {
        // Programs of other architectures have other numbers of the calls, so every call fails. x32 (from 2^30) is such a one.
        let other = |comparison, k| [unless(comparison, k, 1), fail(libc::ENOSYS)];
        let mut all = vec![load(offset_of!(seccomp_data, arch))];
        all.extend([sock_filter { jt: 1, ..unless(BPF_JEQ, ARCHITECTURE, 0) }, fail(libc::ENOSYS)]);
        all.push(load(offset_of!(seccomp_data, nr)));
        all.extend(other(BPF_JGE, 1 << 30));
        // Each rule is skipped for other calls.
        let mut rule = |call: c_long, body: Vec<sock_filter>| {
            all.push(unless(BPF_JEQ, call as u32, body.len() as u8));
            all.extend(body);
        };
        rule(libc::SYS_connect, vec![give(libc::SECCOMP_RET_USER_NOTIF)]);
        rule(libc::SYS_io_uring_setup, vec![fail(libc::ENOSYS)]);
        for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
            let connects = unless(BPF_JSET, libc::MSG_FASTOPEN as u32, 1);
            rule(call, vec![load_argument(flags), connects, fail(libc::EOPNOTSUPP), allow()]);
        }
        let mut socket = vec![load_argument(0)];
        for family in [libc::AF_UNIX, libc::AF_NETLINK, libc::AF_ALG] {
            socket.extend([unless(BPF_JEQ, family as u32, 1), allow()]);
        }
        // IPv6 is treated as IPv4.
        socket.extend([unless(BPF_JEQ, libc::AF_INET6 as u32, 1), op(BPF_LD | libc::BPF_IMM, libc::AF_INET as u32)]);
        let mut tcp = vec![load_argument(2)];
        for protocol in [0, libc::IPPROTO_TCP, libc::IPPROTO_MPTCP] {
            tcp.extend([unless(BPF_JEQ, protocol as u32, 1), allow()]);
        }
        let mut stream = vec![load_argument(1), op(BPF_ALU | BPF_AND | BPF_K, 0xf)];
        stream.extend([unless(BPF_JEQ, libc::SOCK_STREAM as u32, tcp.len() as u8)]);
        stream.extend(tcp);
        socket.extend([unless(BPF_JEQ, libc::AF_INET as u32, stream.len() as u8)]);
        socket.extend(stream);
        socket.push(fail(libc::EACCES));
        rule(libc::SYS_socket, socket);
        all.push(allow());
        all
    }

    /// Answers the filter's questions until the process ends. Allocates nothing, so that a fork at any time is safe.
    fn answer_all(listener: RawFd) {
        loop {
            // SAFETY: both structures are plain integers, and the kernel reads and writes them only during the calls.
            unsafe {
                let mut asked: seccomp_notif = zeroed();
                if libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) != 0 {
                    // EINTR, or the asking process is gone (ENOENT). Anything else would repeat for ever.
                    match io::Error::last_os_error().raw_os_error() {
                        Some(libc::EINTR | libc::ENOENT) => continue,
                        _ => break,
                    }
                }
                let mut answer: seccomp_notif_resp = zeroed();
                answer.id = asked.id;
                if is_local(asked.pid as libc::pid_t, asked.data.args[1], asked.data.args[2]) {
                    answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
                } else {
                    answer.error = -libc::ENETUNREACH;
                }
                libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer);
            }
        }
        // Then every question is answered with ENOSYS.
        // SAFETY: nothing else uses the descriptor.
        unsafe { libc::close(listener) };
    }

    /// Whether the address at `pointer` in the memory of `process` is on this machine. False if it cannot be read.
    fn is_local(process: libc::pid_t, pointer: u64, length: u64) -> bool {
        let mut address = [0_u8; ADDRESS_SIZE];
        let length = ADDRESS_SIZE.min(length as usize);
        let local = libc::iovec { iov_base: address.as_mut_ptr().cast(), iov_len: length };
        let remote = libc::iovec { iov_base: pointer as *mut libc::c_void, iov_len: length };
        // SAFETY: `local` is valid for `length` bytes; the kernel checks the other process's memory.
        let read = unsafe { libc::process_vm_readv(process, &raw const local, 1, &raw const remote, 1, 0) };
        read == length as isize && is_local_address(&address[..length])
    }

    /// Whether a socket address is on this machine: Unix, loopback, or none at all (which ends a connection).
    pub(super) fn is_local_address(address: &[u8]) -> bool {
        let Some((family, rest)) = address.split_first_chunk::<{ size_of::<libc::sa_family_t>() }>() else { return false };
        match i32::from(libc::sa_family_t::from_ne_bytes(*family)) {
            libc::AF_UNSPEC | libc::AF_UNIX | libc::AF_NETLINK => true,
            // After the port. The unspecified address connects to this machine.
            libc::AF_INET => rest.get(2..6).and_then(|ip| <[u8; 4]>::try_from(ip).ok()).is_some_and(|ip| {
                let ip = Ipv4Addr::from(ip);
                ip.is_loopback() || ip.is_unspecified()
            }),
            // After the port and the flow label.
            libc::AF_INET6 => rest.get(6..22).and_then(|ip| <[u8; 16]>::try_from(ip).ok()).is_some_and(|ip| {
                let ip = Ipv6Addr::from(ip);
                ip.is_loopback() || ip.is_unspecified() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback() || ip.is_unspecified())
            }),
            _ => false,
        }
    }

    // The sizes that the kernel expects; it refuses others.
    const _: () = assert!(size_of::<seccomp_notif>() == 80 && size_of::<seccomp_notif_resp>() == 24);

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_addresses_of_this_machine_are_local() {
            let v4 = |ip: [u8; 4]| [&(libc::AF_INET as u16).to_ne_bytes()[..], &[0, 80], &ip, &[0; 8]].concat();
            let v6 = |ip: &str| {
                let ip: Ipv6Addr = ip.parse().unwrap();
                [&(libc::AF_INET6 as u16).to_ne_bytes()[..], &[0, 80, 0, 0, 0, 0], &ip.octets(), &[0; 4]].concat()
            };
            for address in [v4([127, 0, 0, 1]), v4([127, 9, 9, 9]), v4([0; 4]), v6("::1"), v6("::"), v6("::ffff:127.0.0.1")] {
                assert!(is_local_address(&address), "{address:?}");
            }
            for address in [v4([192, 0, 2, 1]), v4([128, 0, 0, 1]), v6("fd00::1"), v6("::ffff:192.0.2.1"), v6("fe80::1")] {
                assert!(!is_local_address(&address), "{address:?}");
            }
            assert!(is_local_address(&(libc::AF_UNIX as u16).to_ne_bytes()));
            for address in [&[][..], &[2], &[2, 0], &[2, 0, 0, 80, 127], &[40, 0]] {
                assert!(!is_local_address(address), "{address:?}");
            }
            assert_eq!(v4([0; 4]).len(), size_of::<libc::sockaddr_in>());
        }
    }
}
