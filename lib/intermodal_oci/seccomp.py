"""The default seccomp profile: the system calls that ordinary programs need, and no others.

A list of what is allowed, after the practice of Docker's and containerd's defaults. Left out, because they
reach past the container: mounts, namespaces, modules, kexec, bpf, the clock, swap, keyrings, quotas, raw I/O,
io_uring (its requests bypass these very rules), userfaultfd. A capability that a container was given brings the
calls which it is for.

The kernel's name for a call is all that counts: a runtime skips names that an architecture does not have.
"""

from collections.abc import Collection
from functools import cache
from typing import Any, Final

from intermodal_oci import platforms

__all__ = ["default_profile"]

_FILES = """
    access chdir chmod chown chown32 close close_range creat dup dup2 dup3 faccessat faccessat2 fallocate fchdir
    fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync flock fstat fstat64 fstatat64
    fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 lchown lchown32 link linkat
    lseek _llseek lstat lstat64 mkdir mkdirat mknod mknodat newfstatat open openat openat2 readlink readlinkat
    rename renameat renameat2 rmdir stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range
    sync_file_range2 arm_sync_file_range syncfs truncate truncate64 umask unlink unlinkat utime utimensat
    utimensat_time64 utimes name_to_handle_at cachestat
    fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr lsetxattr
    removexattr setxattr getxattrat setxattrat listxattrat removexattrat
    fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
"""
_READING_AND_WRITING = """
    copy_file_range fadvise64 fadvise64_64 arm_fadvise64_64 ioctl pipe pipe2 pread64 preadv preadv2 pwrite64
    pwritev pwritev2 read readahead readv sendfile sendfile64 splice tee vmsplice write writev
    io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 poll ppoll ppoll_time64 pselect6 pselect6_time64 select _newselect signalfd signalfd4
"""
_MEMORY = """
    brk get_mempolicy madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall
    mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
    process_mrelease remap_file_pages
"""
_PROCESSES = """
    arch_prctl capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getegid getegid32
    geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid
    getresgid32 getresuid getresuid32 getrlimit ugetrlimit getrusage getsid gettid getuid getuid32 ioprio_get
    ioprio_set modify_ldt pidfd_open pidfd_send_signal prctl prlimit64 ptrace rseq seccomp set_robust_list
    set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
    setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
    setrlimit setsid setuid setuid32 uname vfork wait4 waitid waitpid
    landlock_add_rule landlock_create_ruleset landlock_restrict_self
    process_vm_readv process_vm_writev
"""
_SCHEDULING_AND_LOCKS = """
    futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake getcpu sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield
"""
_SIGNALS = """
    kill pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction sigaltstack sigpending
    sigprocmask sigreturn sigsuspend signal tgkill tkill
"""
_TIME = """
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times
"""
_SOCKETS = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""
_SYSTEM_V_AND_QUEUES = """
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt
    shmget
"""
_REST = "getrandom sysinfo"
_OF_ARCHITECTURES = """
    breakpoint cacheflush riscv_flush_icache riscv_hwprobe s390_pci_mmio_read s390_pci_mmio_write
    s390_runtime_instr set_tls get_tls swapcontext switch_endian sync_file_range2 uretprobe
"""

# A call that two capabilities bring is named under both.
_BY_CAPABILITY: Final = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie mount mount_setattr
        move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns statmount syslog
        umount umount2 unshare
    """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
}

# The architecture itself and those whose programs the same kernel runs. x32 is left out: no distribution ships
# programs for it, distributions' kernels refuse it, and the rules for it would add 6 ms to every start.
_ARCHITECTURES: Final = {
    "amd64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"),
    "386": ("SCMP_ARCH_X86",),
    "arm64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "arm": ("SCMP_ARCH_ARM",),
    "ppc64le": ("SCMP_ARCH_PPC64LE",),
    "riscv64": ("SCMP_ARCH_RISCV64",),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
    "mips64le": ("SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64N32"),
}

# include/uapi/linux/sched.h: CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}.
_NEW_NAMESPACES: Final = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
# include/uapi/linux/personality.h: PER_LINUX and PER_LINUX32, each also with UNAME26; and asking for the present one.
_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_VSOCK: Final = 40  # reaches the hypervisor, whatever the network namespace
_EPERM: Final = 1
_ENOSYS: Final = 38


def default_profile(capabilities: Collection[str], architecture: str = "") -> dict[str, Any]:
    """The profile of a container with these capabilities, in the runtime spec's form (`linux.seccomp`).

    Args:
        capabilities: `CAP_...` names, as granted.
        architecture: Go's name; this machine's where empty. One that is not known gets the runtime's own.

    What is not allowed fails with EPERM; clone3, whose flags no filter can see, with ENOSYS, so that a libc falls
    back to clone, which may make processes and threads but no namespaces.
    """
    architecture = architecture or platforms.host().architecture
    allowed = set(_always())
    for capability in capabilities:
        allowed.update(_BY_CAPABILITY.get(capability, "").split())
    rules: list[dict[str, Any]] = [_allow(sorted(allowed))]
    rules += [_allow(["personality"], _argument(0, "SCMP_CMP_EQ", value)) for value in _PERSONALITIES]
    rules.append(_allow(["socket"], _argument(0, "SCMP_CMP_NE", _AF_VSOCK)))
    if "clone" not in allowed:
        flags = 1 if architecture == "s390x" else 0
        rules.append(_allow(["clone"], _argument(flags, "SCMP_CMP_MASKED_EQ", _NEW_NAMESPACES)))
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": _EPERM, "syscalls": rules}
    if architecture in _ARCHITECTURES:
        profile["architectures"] = list(_ARCHITECTURES[architecture])
    return profile


@cache
def _always() -> frozenset[str]:
    groups = (
        _FILES,
        _READING_AND_WRITING,
        _MEMORY,
        _PROCESSES,
        _SCHEDULING_AND_LOCKS,
        _SIGNALS,
        _TIME,
        _SOCKETS,
        _SYSTEM_V_AND_QUEUES,
        _REST,
        _OF_ARCHITECTURES,
    )
    return frozenset(name for group in groups for name in group.split())


def _allow(names: list[str], *arguments: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW"}
    if arguments:
        rule["args"] = list(arguments)
    return rule


def _argument(index: int, operator: str, value: int) -> dict[str, Any]:
    """`value` is what is compared with; for MASKED_EQ it is the mask, and the masked argument must be 0."""
    return {"index": index, "value": value, "valueTwo": 0, "op": operator}
