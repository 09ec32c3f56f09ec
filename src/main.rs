//! The binary: the command line. Python starts inside it when a step needs it.

/// mimalloc, because preparing data makes about twenty allocations per conversation. The Python module does not set it: its host has an
/// allocator of its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    pyrust_nn::process(std::env::args_os().collect())
}
