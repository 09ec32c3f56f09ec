fn main() {
    // The path that pyrust-nn sets for its own binary does not reach the crates that depend on it.
    let libpython = std::env::var("DEP_PYRUST_NN_LIBPYTHON").expect("pyrust-nn's build script tells it");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{libpython}");
}
