package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_token_log_probs_args;
import java.util.function.Consumer;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class CallTest {
  private final Context context = Context.cpu();
  private final Scope scope = context.scope();

  @AfterEach
  void close() {
    context.close();
  }

  private void assertRejected(Consumer<Call> check, String message) {
    assertThatThrownBy(
            () -> {
              try (Call call = context.begin("op")) {
                check.accept(call);
              }
            })
        .isInstanceOf(InvalidArgumentException.class)
        .hasMessage(message);
  }

  @Test
  void rejectionsNameArgumentExpectedAndActual() {
    Tensor floats = Tensor.zeros(scope, DType.F32, 3, 4);
    Tensor ints = Tensor.zeros(scope, DType.I32, 3);
    assertRejected(c -> c.f32("x", null, 3, 4), "op: x: expected f32[3, 4], got null");
    assertRejected(c -> c.f32("x", ints, 3), "op: x: expected f32[3], got i32[3]");
    assertRejected(c -> c.i32("x", ints, 4), "op: x: expected i32[4], got i32[3]");
    assertRejected(c -> c.i32("x", ints, 3, 1), "op: x: expected i32[3, 1], got i32[3]");
    assertRejected(c -> c.u8("x", ints, -1), "op: x: expected u8[*], got i32[3]");
    assertRejected(
        c -> c.strided("x", ints, DType.FLOAT, -1, 7),
        "op: x: expected f32 or bf16 or f16[*, 7], got i32[3]");
    assertRejected(
        c -> c.f32("x", floats.columns(1, 3), -1, -1),
        "op: x: expected a dense tensor, got f32[3, 2] with gaps between its rows");
    assertRejected(c -> c.optionalI32("x", floats, 3), "op: x: expected i32[3], got f32[3, 4]");
  }

  @Test
  void acceptsWhatFits() {
    Tensor floats = Tensor.zeros(scope, DType.F32, 3, 4);
    try (Call call = context.begin("op")) {
      assertThat(call.f32("x", floats, -1, 4)).isEqualTo(floats.address());
      assertThat(call.f32("x", floats.rows(1, 3), 2, 4)).isEqualTo(floats.address() + 16);
      // one row has no gaps, whatever its stride
      assertThat(call.f32("x", floats.columns(1, 3).rows(1, 2), 1, 2))
          .isEqualTo(floats.address() + 20);
      assertThat(call.strided("x", floats.columns(1, 3), DType.FLOAT, 3, 2))
          .isEqualTo(floats.address() + 4);
      assertThat(call.optionalF32("x", null, 3)).isZero();
      assertThat(call.optionalU8("x", null, 3)).isZero();
      assertThat(call.f32("x", Tensor.zeros(scope, DType.F32, 0), 0)).isZero();
    }
  }

  @Test
  void tensorsOfAnotherContext() {
    try (Context other = Context.cpu();
        Scope theirs = other.scope()) {
      Tensor foreign = Tensor.zeros(theirs, DType.F32, 3);
      assertRejected(
          c -> c.f32("x", foreign, 3),
          "op: x: expected a tensor of the context of the call, got f32[3] of another context");
      Tensor own = Tensor.zeros(scope, DType.F32, 3);
      assertThatThrownBy(() -> own.copyFrom(foreign))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessageStartingWith("copy_from: source: expected a tensor of the context");
    }
  }

  @Test
  void closedTensorsAndTheirViews() {
    Tensor tensor = Tensor.zeros(scope, DType.F32, 3);
    Tensor view = tensor.rows(0, 2);
    tensor.close();
    try (Call call = context.begin("op")) {
      assertThatThrownBy(() -> call.f32("x", tensor, 3))
          .isInstanceOf(ClosedException.class)
          .hasMessage("op: x: f32[3] is closed");
      assertThatThrownBy(() -> call.f32("x", view, 2))
          .isInstanceOf(ClosedException.class)
          .hasMessage("op: x: f32[2] is closed");
    }
  }

  @Test
  void structsAreReusedClearedAndSized() {
    saccade_token_log_probs_args first;
    try (Call call = context.begin("op")) {
      first = call.args(saccade_token_log_probs_args.class, saccade_token_log_probs_args::new);
      first.rows(7).temperature(3).lse(64);
    }
    try (Call call = context.begin("op")) {
      var again = call.args(saccade_token_log_probs_args.class, saccade_token_log_probs_args::new);
      assertThat(again).isSameAs(first);
      assertThat(again.struct_size()).isEqualTo(again.sizeof());
      assertThat(again.rows()).isZero();
      assertThat(again.temperature()).isZero();
      assertThat(again.lse()).isZero();
      try (Call nested = context.begin("inner")) {
        again.rows(5);
        var inner =
            nested.args(saccade_token_log_probs_args.class, saccade_token_log_probs_args::new);
        assertThat(inner.address()).isNotEqualTo(again.address());
        assertThat(again.rows()).isEqualTo(5);
      }
    }
  }

  @Test
  void aCallThatFailedInItsChecksLeavesNothingBehind() {
    Tensor tensor = Tensor.of(scope, new float[] {1, 2, 3, 4}, 1, 4);
    Tensor targets = Tensor.of(scope, new int[] {2});
    var options = TokenLogProbs.Options.DEFAULT;
    float[] expected = TokenLogProbs.forward(scope, tensor, targets, options).logProb().toFloats();
    for (int i = 0; i < 3; i++) {
      var halfway = new TokenLogProbs.Outputs(Tensor.empty(scope, DType.F32, 9), null, null);
      assertThatThrownBy(() -> TokenLogProbs.forward(context, tensor, targets, options, halfway))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage("token_log_probs: log_prob: expected f32[1], got f32[9]");
      assertThat(TokenLogProbs.forward(scope, tensor, targets, options).logProb().toFloats())
          .containsExactly(expected);
    }
  }

  @Test
  void nestedCallsKeepTheTensorsOfTheOuterOne() {
    Tensor tensor = Tensor.of(scope, new float[] {1, 2});
    try (Call outer = context.begin("outer")) {
      outer.f32("x", tensor, 2);
      assertThat(tensor.toFloats()).containsExactly(1, 2);
      Tensor inside = Tensor.zeros(scope, DType.F32, 2).copyFrom(tensor);
      outer.f32("y", inside, 2);
      assertThatThrownBy(() -> inside.copyFrom((Tensor) null))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessageStartingWith("copy_from: ");
      assertThatThrownBy(() -> outer.f32("z", null, 2))
          .hasMessageStartingWith("outer: "); // the inner call did not rename it
    }
  }

  @Test
  void statusesBecomeTheirExceptions() {
    String text = "op: x: expected 1, got 2, got 3";
    SaccadeException e = SaccadeException.of(Saccade.SACCADE_INVALID_ARGUMENT, text);
    assertThat(e).isInstanceOf(InvalidArgumentException.class).hasMessage(text);
    assertThat(((InvalidArgumentException) e).actual()).isEqualTo("2, got 3");
    assertThat(SaccadeException.of(Saccade.SACCADE_UNSUPPORTED, text))
        .isInstanceOf(UnsupportedException.class)
        .hasMessage(text);
    assertThat(SaccadeException.of(Saccade.SACCADE_OUT_OF_MEMORY, text))
        .isInstanceOf(OutOfMemoryException.class);
    assertThat(SaccadeException.of(Saccade.SACCADE_INTERNAL, text))
        .isExactlyInstanceOf(FatalException.class);
    assertThat(SaccadeException.of(Saccade.SACCADE_FATAL, text))
        .isInstanceOf(FatalDeviceException.class)
        .hasMessage(text);
    assertThat(SaccadeException.of(Saccade.SACCADE_INVALID_ARGUMENT, "garbled"))
        .isInstanceOf(FatalException.class);
  }

  @Test
  void memoryThatTheLibraryLacksIsListed() {
    Tensor.zeros(scope, DType.F32, 3, 5);
    try (Call call = context.begin("op")) {
      assertThatThrownBy(() -> call.invoke(Saccade.SACCADE_OUT_OF_MEMORY))
          .isInstanceOf(OutOfMemoryException.class)
          .hasMessageEndingWith("; live tensors: 1, 60 bytes, the largest:\n  f32[3, 5], 60 bytes");
    }
  }

  @Test
  void whatTheLibraryRejectsIsNamed() {
    Tensor logits = Tensor.zeros(scope, DType.F32, 1, 4);
    Tensor targets = Tensor.zeros(scope, DType.I32, 1);
    var frozen = TokenLogProbs.Options.DEFAULT.withTemperature(0);
    assertThatThrownBy(() -> TokenLogProbs.forward(scope, logits, targets, frozen))
        .isInstanceOfSatisfying(
            InvalidArgumentException.class,
            e -> {
              assertThat(e.operation()).isEqualTo("token_log_probs");
              assertThat(e.argument()).isEqualTo("temperature");
              assertThat(e.expected()).isEqualTo("a finite number above 0");
              assertThat(e.actual()).isEqualTo("0");
            });
  }

  // ---------------------------------------------------------------------------------------
  // workspaces

  private static long workspace(Call call, long bytes) {
    call.bytes()[0] = bytes;
    return call.workspace(Saccade.SACCADE_OK);
  }

  @Test
  void workspacesGrowAndAreShared() {
    try (Call call = context.begin("first")) {
      assertThat(workspace(call, 0)).isZero();
      long small = workspace(call, 1000);
      assertThat(small).isNotZero();
      assertThat(small % 64).isZero();
      assertThat(workspace(call, 500)).isEqualTo(small);
      try (Call nested = context.begin("nested")) {
        assertThat(workspace(nested, 1000)).isNotEqualTo(small);
      }
    }
    long large;
    try (Call call = context.begin("second")) {
      large = workspace(call, 1 << 20);
    }
    try (Call call = context.begin("third")) {
      assertThat(workspace(call, 1 << 20)).isEqualTo(large);
    }
    assertThat(context.leaks()).isEmpty();
    assertThat(context.liveBytes()).isZero();
    assertThat(context.workspaceBytes()).isGreaterThanOrEqualTo((1 << 20) + 1000);
    context.trim();
    assertThat(context.workspaceBytes()).isZero();
    try (Call call = context.begin("fourth")) {
      assertThat(workspace(call, 64)).isNotZero();
    }
  }

  @Test
  void aWorkspaceThatCannotGrowIsNotUsedAfterwards() {
    try (Call call = context.begin("op")) {
      workspace(call, 1 << 16);
      assertThatThrownBy(() -> workspace(call, 1L << 60))
          .isInstanceOf(OutOfMemoryException.class)
          .hasMessageContaining("workspace of op needs " + (1L << 60) + " bytes");
      assertThat(context.memory().live()).isEmpty();
      long address = workspace(call, 1 << 16);
      assertThat(context.memory().live()).extracting(Storage::address).containsExactly(address);
    }
  }
}
