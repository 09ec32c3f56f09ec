//! The binary: the command line, with Python inside once a step needs it.

/// Preparing data takes some twenty allocations a conversation. The module inside Python leaves the host's allocator as it is.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // A closed pipe (`pyrust-nn sessions | head`) ends the program quietly.
    // SAFETY: called before there is any other thread.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    pyrust_nn::cli::process(std::env::args().collect())
}
