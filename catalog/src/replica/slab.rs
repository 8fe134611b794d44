//! A slab: values under small integer handles, which stay the same while the value lives.
//!
//! Everything in the replica refers to everything else by such handles: four bytes instead of a pointer's eight, and no
//! reference counts. The values lie in chunks, so that growth never copies the whole: a replica of a million instances
//! takes no longer pause for the next one than a small one does.

/// Values by handle. A removed value's place holds the default until it is used again.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    free: Vec<u32>,
    used: u32,
}

/// Bytes of a chunk, nearly: a round number of them leaves nothing unused between it and the next one.
const CHUNK_BYTES: usize = 1 << 16;

impl<T> Slab<T> {
    /// Values in a chunk.
    const CHUNK: usize = CHUNK_BYTES / size_of::<T>();

    /// The chunk and the place in it.
    fn place(handle: u32) -> (usize, usize) {
        let chunk = Self::CHUNK as u32;
        ((handle / chunk) as usize, (handle % chunk) as usize)
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), used: 0 }
    }
}

impl<T: Default> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(handle) = self.free.pop() {
            self[handle] = value;
            return handle;
        }
        let handle = self.used;
        self.used += 1;
        let (chunk, place) = Self::place(handle);
        if place == 0 {
            // The first one grows, for the sake of small slabs.
            self.chunks.push(if chunk == 0 { Vec::new() } else { Vec::with_capacity(Self::CHUNK) });
        }
        self.chunks[chunk].push(value);
        handle
    }

    pub(super) fn remove(&mut self, handle: u32) -> T {
        self.free.push(handle);
        std::mem::take(&mut self[handle])
    }

    /// All handles, those of places without a value among them.
    pub(super) fn handles(&self) -> std::ops::Range<u32> {
        0..self.used
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.used as usize - self.free.len()
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, handle: u32) -> &T {
        let (chunk, place) = Self::place(handle);
        &self.chunks[chunk][place]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, handle: u32) -> &mut T {
        let (chunk, place) = Self::place(handle);
        &mut self.chunks[chunk][place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_stay_and_places_are_used_again() {
        let mut slab = Slab::default();
        let handles: Vec<u32> = (0..30_000).map(|n| slab.insert(n)).collect();
        assert!(handles.iter().zip(0..).all(|(&handle, n)| slab[handle] == n));
        assert_eq!(slab.remove(handles[7]), 7);
        assert_eq!((slab.len(), slab.insert(1)), (29_999, handles[7]));
    }
}
