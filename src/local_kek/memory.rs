//! Memory that outlives the process where somebody keeps its descriptor: a sealed, mapped memfd.
//!
//! Must not know what lies in it. Nothing of it reaches a disk: it is locked where the limit allows
//! (mlock(2)), left out of core dumps (madvise(2), MADV_DONTDUMP), and zeroized when it is given up.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{Advice, MmapMut};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;
use zeroize::Zeroize as _;

/// MFD_NOEXEC_SEAL of memfd_create(2), Linux 6.3: what lies in the memory can never be run.
const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(8);
/// Its length is fixed for good: under another one, an access could fault. It is not sealed against
/// writes, since what cannot be written cannot be wiped.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// The memory.
pub(super) struct SealedMemory {
    fd: OwnedFd,
    map: MmapMut,
    locked: bool,
}

impl SealedMemory {
    /// `length` bytes of zeroes. `name` is for people (proc(5), /proc/PID/maps).
    ///
    /// # Errors
    /// When the kernel gives no memory.
    pub(super) fn create(name: &CStr, length: usize) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create(name, flags | NOEXEC_SEAL).or_else(|_| memfd_create(name, flags))?;
        ftruncate(&fd, i64::try_from(length).map_err(io::Error::other)?)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS | SealFlag::F_SEAL_SEAL))?;
        Self::map(fd, length)
    }

    /// Takes over what an earlier process made.
    ///
    /// # Errors
    /// When it is not such memory, or not of this `length`.
    pub(super) fn adopt(fd: OwnedFd, length: usize) -> io::Result<Self> {
        let seals = SealFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SEALS) || seals.contains(SealFlag::F_SEAL_WRITE) {
            return Err(io::Error::other("it is not sealed as ours is"));
        }
        if usize::try_from(fstat(&fd)?.st_size) != Ok(length) {
            return Err(io::Error::other("it has another length than ours"));
        }
        Self::map(fd, length)
    }

    fn map(fd: OwnedFd, length: usize) -> io::Result<Self> {
        // SAFETY: the memory cannot be truncated under the mapping (SEALS). Only this process maps it: the
        // one that made it has ended, and whoever keeps the descriptor for us does not look into it.
        #[allow(unsafe_code)] // there is no safe way to map memory that another process could write to
        let map = unsafe { memmap2::MmapOptions::new().len(length).map_mut(&fd) }?;
        map.advise(Advice::DontDump)?;
        map.advise(Advice::DontFork)?;
        let locked = map.lock().is_ok();
        Ok(Self { fd, map, locked })
    }

    /// Whether it is kept out of the swap.
    pub(super) fn is_locked(&self) -> bool {
        self.locked
    }

    /// What lies in it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The same, to write.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }

    /// Overwrites all of it, also for whoever else has the descriptor.
    pub(super) fn wipe(&mut self) {
        self.map.zeroize();
    }
}

impl AsFd for SealedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_one_wrote_the_next_reads_until_it_is_wiped() {
        let mut first = SealedMemory::create(c"test", 8192).unwrap();
        first.bytes_mut()[5000] = 7;
        let copy = first.as_fd().try_clone_to_owned().unwrap();
        let second = SealedMemory::adopt(copy, 8192).unwrap();
        assert_eq!(second.bytes()[5000], 7);
        first.wipe();
        assert!(second.bytes().iter().all(|byte| *byte == 0));
        let grown = ftruncate(&first.fd, 4096).and(ftruncate(&first.fd, 16384));
        assert_eq!(grown, Err(nix::errno::Errno::EPERM));
        assert!(fcntl(&first.fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_err());
    }

    /// As the kernel shows it (proc(5), VmFlags): dd is left out of a core dump, dc is not copied by a fork, lo is
    /// locked.
    #[test]
    fn it_is_left_out_of_core_dumps_and_locked_where_the_limit_allows() {
        let memory = SealedMemory::create(c"flags", 4096).unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (_, ours) = maps.split_once("/memfd:flags").unwrap();
        let flags = ours.lines().find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
        let has = |flag: &str| flags.split_whitespace().any(|shown| shown == flag);
        assert!(has("dd") && has("dc"), "{flags}");
        assert_eq!(has("lo"), memory.is_locked(), "{flags}");
    }

    #[test]
    fn what_is_not_such_memory_is_refused() {
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        assert!(SealedMemory::adopt(file, 4096).is_err());
        let unsealed = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 4096).unwrap();
        assert!(SealedMemory::adopt(unsealed.try_clone().unwrap(), 4096).is_err());
        fcntl(&unsealed, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
        assert!(SealedMemory::adopt(unsealed.try_clone().unwrap(), 8192).is_err());
        assert!(SealedMemory::adopt(unsealed, 4096).is_ok());
    }
}
