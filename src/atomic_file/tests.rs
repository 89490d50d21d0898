use super::*;

fn save_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    save(path, |w| w.write_all(bytes))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_failing_write_leaves_the_old_file_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    save_bytes(&path, b"old").unwrap();
    let failed = save(&path, |w| {
        w.write_all(b"half")?;
        Err(io::Error::other("disk full"))
    });
    assert_eq!(failed.unwrap_err().to_string(), "disk full");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["x.gguf"]);
}

#[test]
fn a_missing_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none").join("x");
    let e = save_bytes(&missing, b"").unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::NotFound);
    assert!(e.to_string().contains("none"), "{e}");
    assert!(Way::of(&missing).is_err());
    assert!(Way::of(dir.path()).is_err() && save_bytes(dir.path(), b"").is_err());
    assert_eq!(Way::of(&dir.path().join("new")).unwrap(), Way::Replace);
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_new_file_gets_a_name_that_nobody_can_predict() {
    let dir = tempfile::tempdir().unwrap();
    let new = |name: &str| save_new(dir.path(), OsStr::new(name), |w| w.write_all(b"matrix"));
    let [a, b] = [new("m.gguf").unwrap(), new("m.gguf").unwrap()];
    assert_ne!(a, b);
    for path in [&a, &b, &new(&"é".repeat(127)).unwrap()] {
        assert_eq!(fs::read(path).unwrap(), b"matrix");
    }
    let name = a.file_name().unwrap().to_str().unwrap();
    let random = name.strip_prefix("m-").and_then(|name| name.strip_suffix(".gguf")).unwrap();
    assert_eq!(random.len(), 12, "{name}");
    let failed = save_new(dir.path(), OsStr::new("x"), |_| Err(io::Error::other("no")));
    assert!(failed.is_err() && names(dir.path()).len() == 3, "nothing is left of one that failed");
}

#[cfg(unix)]
mod unix {
    use std::fs::Permissions;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn links_stay_links_and_modes_stay() {
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        let dir = tempfile::tempdir().unwrap();
        let (folder, real, link) = (dir.path().join("d"), dir.path().join("d/real"), dir.path().join("link"));
        fs::create_dir(&folder).unwrap();
        symlink("d/real", &link).unwrap();
        save_bytes(&link, b"1").unwrap(); // through a link that leads to nothing yet
        assert_eq!(fs::read(&real).unwrap(), b"1");

        let plain = dir.path().join("plain");
        fs::write(&plain, b"").unwrap();
        assert_eq!(mode(&real), mode(&plain), "a new file has the umask's permissions");

        fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
        save_bytes(&link, b"2").unwrap();
        assert_eq!((fs::read(&real).unwrap(), mode(&real)), (b"2".to_vec(), 0o640));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(&folder), ["real"]);
    }

    /// Only the superuser can make a file another user's: as any other user, this shows that the mode stays.
    #[test]
    fn the_owner_and_the_group_of_a_replaced_file_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        save_bytes(&path, b"1").unwrap();
        let given = std::os::unix::fs::chown(&path, Some(12345), Some(23456)).is_ok();
        fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
        save_bytes(&path, b"2").unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o604);
        assert_eq!(given, (found.uid(), found.gid()) == (12345, 23456));
        assert_eq!(fs::read(&path).unwrap(), b"2");
    }

    #[test]
    fn a_device_is_written_to_and_stays() {
        let device = Path::new("/dev/null");
        assert_eq!(Way::of(device).unwrap(), Way::Stream);
        save_bytes(device, b"x").unwrap();
        assert!(fs::metadata(device).unwrap().file_type().is_char_device());
    }

    #[test]
    fn a_link_loop_and_a_socket_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("a");
        symlink("a", &link).unwrap();
        assert!(save_bytes(&link, b"x").is_err());
        let socket = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(Way::of(&socket).unwrap_err().to_string().contains("socket"));
    }

    /// The superuser is asked by the kernel's rules too: they let it replace the file.
    #[test]
    fn the_probe_of_a_sticky_folder_leaves_its_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
        let path = dir.path().join("x.gguf");
        fs::write(&path, b"old").unwrap();
        let before = fs::metadata(&path).unwrap();
        assert_eq!(Way::of(&path).unwrap(), Way::Replace);
        let after = fs::metadata(&path).unwrap();
        assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
        assert_eq!(names(dir.path()), ["x.gguf"]);
        save_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_a_process_has_open_is_a_stream() {
    use std::os::fd::AsRawFd as _;
    let mut open = tempfile::tempfile().unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
    open.write_all(b"longer than what comes").unwrap();
    assert_eq!(Way::of(&path).unwrap(), Way::Stream);
    save_bytes(&path, b"bytes").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"bytes", "the file itself is written, though it has no name");
}
