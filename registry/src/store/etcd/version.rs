//! Which etcd is good enough.
//!
//! Before 3.4.38, 3.5.23 and 3.6.5 a renewal of a lease could succeed though the lease was revoked, so a replica might
//! believe that it is registered when it is not.

/// The first good release of each line; later lines are good.
const FIRST_GOOD: [(u64, u64, u64); 3] = [(3, 4, 38), (3, 5, 23), (3, 6, 5)];

/// Whether a version has the fixes that leases need. What is not a version is let pass: it is a build of one's own.
pub(super) fn is_good(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse::<u64>());
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) = (parts.next(), parts.next(), parts.next()) else {
        return true;
    };
    match FIRST_GOOD.iter().find(|good| (good.0, good.1) == (major, minor)) {
        Some(good) => patch >= good.2,
        None => (major, minor) > (FIRST_GOOD[2].0, FIRST_GOOD[2].1),
    }
}

/// The good ones, for people.
pub(super) fn wanted() -> String {
    let lines: Vec<String> =
        FIRST_GOOD.iter().map(|(major, minor, patch)| format!("{major}.{minor}.{patch}")).collect();
    format!("{} or later of its line", lines.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_known() {
        for good in ["3.4.38", "3.5.23", "3.6.5", "3.6.8", "3.7.0", "4.0.0", "3.6.5-rc.1", "main"] {
            assert!(is_good(good), "{good}");
        }
        for bad in ["3.3.27", "3.4.37", "3.5.22", "3.6.4", "2.3.8", "3.6.0-rc.1"] {
            assert!(!is_good(bad), "{bad}");
        }
    }
}
