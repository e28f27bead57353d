package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ScopeTest {
  @Test
  void closingFreesEverythingOnce() {
    try (Context context = Context.cpu()) {
      Scope scope = context.scope();
      Tensor first = Tensor.zeros(scope, DType.F32, 10);
      Tensor second = Tensor.zeros(scope, DType.I64, 10);
      Tensor view = second.rows(2, 4);
      assertThat(scope.context()).isSameAs(context);
      assertThat(scope).hasToString("Scope[2 tensors on cpu]");
      assertThat(context.liveBytes()).isEqualTo(120);
      scope.close();
      scope.close();
      assertThat(scope).hasToString("Scope[0 tensors on cpu, closed]");
      assertThat(context.liveBytes()).isZero();
      assertThat(context.leaks()).isEmpty();
      assertThat(first.isOpen()).isFalse();
      assertThatThrownBy(first::toFloats)
          .isInstanceOf(ClosedException.class)
          .hasMessage("f32[10] is closed");
      assertThatThrownBy(view::toLongs)
          .isInstanceOf(ClosedException.class)
          .hasMessage("i64[2] is closed");
      assertThatThrownBy(() -> Tensor.empty(scope, DType.F32, 1))
          .isInstanceOf(ClosedException.class)
          .hasMessage("allocate: the scope is closed and takes no new tensors");
      assertThatThrownBy(() -> Tensor.wrap(scope, 64, null, DType.F32, 1))
          .isInstanceOf(ClosedException.class)
          .hasMessage("wrap: the scope is closed and takes no new tensors");
      first.close();
    }
  }

  @Test
  void scopesOverlap() {
    try (Context context = Context.cpu()) {
      Scope first = context.scope();
      Scope second = context.scope();
      Tensor a = Tensor.of(first, new float[] {1});
      Tensor b = Tensor.of(second, new float[] {2});
      first.close();
      assertThat(a.isOpen()).isFalse();
      assertThat(b.item()).isEqualTo(2);
      second.close();
    }
  }

  @Test
  void tensorsMayCloseBeforeTheirScope() {
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      for (int i = 0; i < 1000; i++) {
        Tensor tensor = Tensor.empty(scope, DType.F32, 100);
        tensor.close();
        tensor.close();
      }
      assertThat(scope)
          .as("a long-lived scope forgets them")
          .hasToString("Scope[0 tensors on cpu]");
      assertThat(context.liveBytes()).isZero();
    }
  }

  // --------------------------------------------------------------------------------------------
  // leaks

  /** The flag is read when the library loads, so this takes a JVM of its own. */
  @Test
  void debuggingNamesThePlaceOfALeak() throws IOException, InterruptedException {
    Path output = Files.createTempFile("saccade-leak", ".txt");
    try {
      Process process =
          new ProcessBuilder(
                  Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                  "-Ddev.saccade.debug=true",
                  "-cp",
                  System.getProperty(
                      "surefire.test.class.path", System.getProperty("java.class.path")),
                  "dev.saccade.leaks.LeakingProgram")
              .redirectErrorStream(true)
              .redirectOutput(output.toFile())
              .start();
      assertThat(process.waitFor(60, TimeUnit.SECONDS)).isTrue();
      String text = Files.readString(output, StandardCharsets.UTF_8);
      assertThat(process.exitValue()).as(text).isZero();
      assertThat(text)
          .contains(
              "leak: f32[7, 3], 84 bytes, allocated at"
                  + " dev.saccade.leaks.LeakingProgram.leak(LeakingProgram.java:")
          .contains("not closed before its context: f32[7, 3], 84 bytes, allocated at")
          .doesNotContain("i32[5]");
    } finally {
      Files.delete(output);
    }
  }

  @Test
  void withoutDebuggingALeakIsStillListed() {
    try (Context context = Context.cpu()) {
      Scope scope = context.scope();
      Tensor.empty(scope, DType.U8, 3);
      Tensor.empty(scope, DType.F32, 100);
      assertThat(context.leaks()).containsExactly("f32[100], 400 bytes", "u8[3], 3 bytes");
      scope.close();
      assertThat(context.leaks()).isEmpty();
    }
  }

  // ------------------------------------------------------------------------------------ out of
  // memory

  /** From a tebibyte-free address space up to where rounding to a size class would overflow. */
  @ParameterizedTest
  @ValueSource(longs = {1L << 60, (1L << 62) + 1, Long.MAX_VALUE - 63, Long.MAX_VALUE})
  void askingForTooMuch(long bytes) {
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      Tensor small = Tensor.of(scope, new float[] {1, 2, 3});
      for (int i = 0; i < 10; i++) {
        Tensor.zeros(scope, DType.F32, 1000 + i);
      }
      long live = context.liveBytes();
      for (int i = 0; i < 3; i++) {
        assertThatThrownBy(() -> Tensor.empty(scope, DType.U8, bytes))
            .isInstanceOf(OutOfMemoryException.class)
            .hasMessageStartingWith(
                "allocate: u8[%d] needs %d bytes, more than cpu has left; live tensors: 11, %d bytes,"
                    + " the largest:",
                bytes, bytes, live)
            .hasMessageContaining("\n  f32[1009], 4036 bytes\n  f32[1008], 4032 bytes\n  f32[1007]")
            .hasMessageNotContaining("f32[1001]");
      }
      assertThat(context.liveBytes()).isEqualTo(live);
      assertThat(small.toFloats()).containsExactly(1, 2, 3);
      assertThat(Tensor.zeros(scope, DType.F32, 2).toFloats()).containsOnly(0);
    }
  }

  // ---------------------------------------------------------------------------------------------
  // pool

  @Test
  void freedBlocksAreReused() {
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      Tensor first = Tensor.empty(scope, DType.F32, 100_000);
      long address = first.address();
      first.close();
      assertThat(context.memory().cachedBytes()).isGreaterThanOrEqualTo(400_000);
      // a little smaller: the same size class
      assertThat(Tensor.empty(scope, DType.F32, 99_000).address()).isEqualTo(address);
      assertThat(context.memory().cachedBytes()).isZero();
      assertThat(Tensor.empty(scope, DType.F32, 100_000).address()).isNotEqualTo(address);
    }
  }

  @Test
  void liveBlocksNeverOverlap() {
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      // around every size class from the smallest up: each filled to its last byte
      Tensor[] tensors = new Tensor[400];
      for (int round = 0; round < 3; round++) {
        for (int i = 0; i < tensors.length; i++) {
          long n = (1L << (i / 33 + 3)) + i % 33 * (1L << Math.max(0, i / 33 - 3)) + i % 3 - 1;
          tensors[i] = Tensor.empty(scope, DType.U8, n);
          byte[] fill = new byte[(int) n];
          Arrays.fill(fill, (byte) i);
          tensors[i].copyFrom(fill);
          assertThat(tensors[i].address() % 64).isZero();
        }
        for (int i = 0; i < tensors.length; i++) {
          assertThat(tensors[i].toBytes()).containsOnly((byte) i);
          tensors[i].close();
        }
      }
      assertThat(context.liveBytes()).isZero();
    }
  }

  @Test
  void theCacheLimitIsKept() {
    try (Context context = Context.builder().cacheLimit(10_000).build();
        Scope scope = context.scope()) {
      Tensor.empty(scope, DType.U8, 8192).close();
      assertThat(context.memory().cachedBytes()).isEqualTo(8192);
      Tensor.empty(scope, DType.U8, 4096).close();
      assertThat(context.memory().cachedBytes()).as("would be too much").isEqualTo(8192);
      Tensor.empty(scope, DType.U8, 1024).close();
      assertThat(context.memory().cachedBytes()).isEqualTo(8192 + 1024);
    }
    try (Context context = Context.builder().cacheLimit(0).build();
        Scope scope = context.scope()) {
      Tensor.empty(scope, DType.U8, 1).close();
      assertThat(context.memory().cachedBytes()).isZero();
    }
  }

  @Test
  void trimGivesBack() throws IOException {
    try (Context context = Context.cpu()) {
      try (Scope scope = context.scope()) {
        Tensor.zeros(scope, DType.U8, 512 << 20); // touched, so that its pages are resident
      }
      long cached = resident();
      assertThat(context.memory().cachedBytes()).isEqualTo(512 << 20);
      context.trim();
      assertThat(context.memory().cachedBytes()).isZero();
      assertThat(cached - resident()).isGreaterThan(400 << 20);
    }
  }

  /** 2.5 GB in 10,000 rounds, through the cache and past it. */
  @ParameterizedTest
  @ValueSource(longs = {1L << 30, 0})
  void nativeMemoryStaysFlat(long cacheLimit) throws IOException {
    try (Context context = Context.builder().cacheLimit(cacheLimit).build()) {
      long before = 0;
      for (int i = 0; i < 10_000; i++) {
        if (i == 500) {
          before = resident();
        }
        try (Scope scope = context.scope()) {
          Tensor.zeros(scope, DType.U8, (256 << 10) + i % 7 * 1000);
        }
      }
      assertThat(resident() - before).isLessThan(150 << 20);
      assertThat(context.liveBytes()).isZero();
    }
  }

  @Test
  void contextsLeaveNothingBehind() throws IOException {
    long before = 0;
    for (int i = 0; i < 300; i++) {
      if (i == 30) {
        before = resident();
      }
      try (Context context = Context.builder().threads(2).build()) {
        Tensor.zeros(context.scope(), DType.U8, 4 << 20); // closed by the context alone
      }
    }
    assertThat(resident() - before).isLessThan(150 << 20);
  }

  /** Resident bytes of this process. */
  private static long resident() throws IOException {
    String pages = Files.readString(Path.of("/proc/self/statm")).split(" ")[1];
    return Long.parseLong(pages) * 4096;
  }
}
