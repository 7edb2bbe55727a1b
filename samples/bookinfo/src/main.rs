//! Bookinfo: the sample application, which knows nothing of the mesh.

fn main() {}
