//! The binary: the command line, with Python inside once a step needs it.

/// Preparing data takes some twenty allocations a conversation. The module inside Python leaves the host's allocator as it is.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    pyrust_nn::process(std::env::args_os().collect())
}
