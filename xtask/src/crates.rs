//! The crates of the workspace, in the order in which they depend on each other.

/// All packages; each must also stand alone, so that its manifest says all it needs.
pub(crate) const ALL: [&str; 12] = [
    "fingerpost-catalog",
    "fingerpost-registry",
    "fingerpost-dns",
    "fingerpost-client",
    "fingerpost-c",
    "fingerpost-listener",
    "fingerpost-cni",
    "fingerpost-node",
    "fingerpost",
    "fingerpost-tests",
    "fingerpost-bench",
    "xtask",
];
