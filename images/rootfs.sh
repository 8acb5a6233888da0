#!/usr/bin/env bash
# Create the root of the images in $1: only Debian's Python and the files that it loads.
# Runs as root in a stage of Dockerfile.shared, where python3 and ca-certificates are installed.
set -euo pipefail

root=${1:?the folder to fill}
python=$(readlink -f /usr/bin/python3)
stdlib=/usr/lib/${python##*/}

# usr-merge: the loader's path is compiled into every program and begins with one of these links.
mkdir -p "$root"/usr/{bin,lib}
for link in /lib*; do
    [[ -L $link ]] && cp -P "$link" "$root/"
done

cp "$python" "$root/usr/bin/"
ln -s "${python##*/}" "$root/usr/bin/python3"
ln -s "${python##*/}" "$root/usr/bin/python"

# The standard library, without tests, manual, turtle, and venv, which needs pip.
cp -a "$stdlib" "$root/usr/lib/"
(
    cd "$root$stdlib"
    find . -name __pycache__ -prune -exec rm -r {} +
    rm -r test pydoc_data turtle.py venv sitecustomize.py
    rm lib-dynload/{_test,_ctypes_test,_xxtest,xx}*.so
)
"$python" -m compileall -q --invalidation-mode unchecked-hash -s "$root" -p / "$root$stdlib"

# The shared libraries, under the names that programs load. ldd does not list two of them: libgcc_s,
# which the C library opens when a thread ends (without it the process aborts), and libpthread, now an
# empty library, which extensions for older systems load.
{
    ldd "$python" "$root$stdlib"/lib-dynload/*.so |
        awk '/not found/ { exit 1 } $2 == "=>" { print $3 } /^\t\// { print $1 }'
    ldconfig -p | sed -n 's/.*lib\(gcc_s\.so\.1\|pthread\.so\.0\) .*=> //p'
} | sort -u >/tmp/libraries
while read -r library; do
    install -D -m 755 "$library" "$root/usr${library#/usr}"
done </tmp/libraries

# The certificates at Debian's path, and at OpenSSL's default path.
install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
mkdir -p "$root/usr/lib/ssl"
cp -P /usr/lib/ssl/{cert.pem,certs} "$root/usr/lib/ssl/"

echo 'nonroot:x:65532:65532:nonroot:/tmp:/usr/sbin/nologin' >"$root/etc/passwd"
echo 'nonroot:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
mkdir -m 1777 "$root/tmp"

# For scanners and lawyers: the packages of these files, and their licences.
install -D -m 644 /etc/os-release "$root/etc/os-release"
mkdir -p "$root/var/lib/dpkg/status.d"
{
    echo ca-certificates
    { echo "$python" && cat /tmp/libraries && find "$stdlib" -name '*.py'; } |
        xargs realpath | xargs dpkg -S | cut -d: -f1
} | sort -u >/tmp/packages
while read -r package; do
    dpkg-query -s "$package" >"$root/var/lib/dpkg/status.d/$package"
    install -D -m 644 {,"$root"}"/usr/share/doc/$package/copyright"
done </tmp/packages
