#!/usr/bin/env bash
# Writes target/saccade-<version>-linux-x86_64.tar.xz: all that a GPU host without JDK and Maven needs.  A slim Java runtime,
# the jars, the native library, the tests of java/core and java/train with JUnit's console launcher, golden cases, and what
# checks and measures a GPU.  Unpack it anywhere and run bin/saccade, or scripts/gpu-check.sh.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

version="$(sed -n '0,/<version>/s|.*<version>\(.*\)</version>.*|\1|p' pom.xml)"
name="saccade-$version-linux-x86_64"
out="target/$name"
maven=(mvn -q -B -ntp -Dstyle.color=never)

rm -rf "$out" "$out.tar.xz" # also where the build fails
# test-compile alone would leave the jars of the modules unmade.
"${maven[@]}" -DskipTests -pl java/cli -am package
mkdir -p "$out/bin" "$out/lib" "$out/tests/lib" "$out/scripts"

# Uncompressed: the archive's own compression does more.
jlink --add-modules java.base,java.logging,java.xml,java.management,java.sql,java.desktop,java.naming,jdk.unsupported,java.compiler \
  --strip-debug --no-header-files --no-man-pages --compress=0 --output "$out/runtime"

cp java/cli/target/saccade-cli-*.jar java/cli/target/lib/*.jar "$out/lib/"
property() { sed -n "s|.*<$1>\(.*\)</$1>.*|\1|p" pom.xml; }
for artifact in "org.junit.platform:junit-platform-console-standalone:1.$(property junit.version | cut -d. -f2-)" \
  "org.assertj:assertj-core:$(property assertj.version)"; do
  "${maven[@]}" -pl . dependency:copy "-Dartifact=$artifact" "-DoutputDirectory=$PWD/$out/tests/lib"
done
# Jars too go without compression; of OpenBLAS and CUDA only what the providers of matrix products load.
repack() { # repack JAR, then the arguments with which find names what goes
  (
    jar="$PWD/$1"
    work="$(mktemp -d)" && trap 'rm -rf "$work"' EXIT && cd "$work"
    jar xf "$jar"
    (($# == 1)) || find . \( "${@:2}" \) -delete
    jar c0fM "$jar" .
  )
}
for jar in "$out"/lib/*.jar "$out"/tests/lib/*.jar; do
  case "$jar" in
    */openblas-*-linux-x86_64.jar) repack "$jar" -name libjniopenblas_full.so -o -path '*/include/*' ;;
    */cuda-*-linux-x86_64.jar) repack "$jar" -name 'libjni*.so' ! -name libjnicublas.so ! -name libjnicudart.so ;;
    *) repack "$jar" ;;
  esac
done
cp -r java/core/target/test-classes "$out/tests/classes"
cp -r java/train/target/test-classes/. "$out/tests/classes/"
find "$out/tests/classes" -name 'BadInput*' -delete # needs jqwik
cp -r java/cli/src/test/resources/golden "$out/golden"
cp -r experiments "$out/experiments"
cp scripts/gpu-check.sh "$out/scripts/"
cmake -P cmake/SaccadeCudaSources.cmake >"$out/cuda-sources.sha256"

cat >"$out/bin/java" <<'LAUNCHER'
#!/usr/bin/env bash
root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
exec "$root/runtime/bin/java" --enable-native-access=ALL-UNNAMED -Dorg.bytedeco.javacpp.maxPhysicalBytes=0 \
  -Dorg.bytedeco.javacpp.maxBytes=0 "$@"
LAUNCHER
cat >"$out/bin/saccade" <<'LAUNCHER'
#!/usr/bin/env bash
root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
exec "$root/bin/java" "-Dsaccade.home=$root" -cp "$root/lib/*" dev.saccade.cli.Main "$@"
LAUNCHER
cat >"$out/bin/test" <<'LAUNCHER'
#!/usr/bin/env bash
# JUnit's console launcher over the tests of java/core and java/train: bin/test --include-tag gpu,
# bin/test -c dev.saccade.AdamWTest, JAVA_TOOL_OPTIONS=-Dsaccade.test.device=cuda bin/test -c dev.saccade.train.GemmTest
root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[[ " $* " == *" -"[cmp]" "* || "$*" == *--select* ]] || set -- --scan-class-path "$root/tests/classes" "$@"
exec "$root/bin/java" -cp "$root/lib/*:$root/tests/lib/*:$root/tests/classes" \
  org.junit.platform.console.ConsoleLauncher execute --details=summary --disable-banner "$@"
LAUNCHER
# Results of benchmarks say what they are of.
sed -i "s|dev.saccade.cli.Main|-Dsaccade.commit=$(git describe --always --dirty) &|" "$out/bin/saccade"
chmod +x "$out"/bin/*

XZ_OPT=-9 tar -C target -cJf "$out.tar.xz" "$name"
du -sh "$out.tar.xz"
