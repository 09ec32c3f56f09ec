"""What Rust calls to run a step, and what a step runs in: streams, signals, environment, imports."""
