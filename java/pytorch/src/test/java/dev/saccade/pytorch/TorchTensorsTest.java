package dev.saccade.pytorch;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.arange;
import static org.bytedeco.pytorch.global.torch.backward;
import static org.bytedeco.pytorch.global.torch.empty_like;
import static org.bytedeco.pytorch.global.torch.log_softmax;
import static org.bytedeco.pytorch.global.torch.ones;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.zeros;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.InvalidArgumentException;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.BoolOptional;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Scalar;
import org.bytedeco.pytorch.TensorVector;
import org.bytedeco.pytorch.global.torch;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class TorchTensorsTest {
  private final Context context = TorchTensors.context(new Device("cpu"));
  private final Scope scope = context.scope();

  @AfterEach
  void close() {
    scope.close();
    context.close();
  }

  private static void assertInvalid(ThrowingCallable use, String message) {
    assertThatThrownBy(use).isInstanceOf(InvalidArgumentException.class).hasMessage(message);
  }

  private static org.bytedeco.pytorch.Tensor counting(long... shape) {
    long size = 1;
    for (long n : shape) {
      size *= n;
    }
    return arange(new Scalar(size)).to(torch.ScalarType.Float).reshape(shape);
  }

  private static float at(org.bytedeco.pytorch.Tensor tensor, long index) {
    return new FloatPointer(tensor.data_ptr()).get(index);
  }

  @Test
  void isInPlaceBothWays() {
    org.bytedeco.pytorch.Tensor theirs = counting(2, 3);
    Tensor ours = TorchTensors.wrap(scope, theirs);
    assertThat(ours.address()).isEqualTo(theirs.data_ptr().address());
    assertThat(ours.dtype()).isEqualTo(DType.F32);
    assertThat(ours.shape()).containsExactly(2, 3);
    assertThat(ours.toFloats()).containsExactly(0, 1, 2, 3, 4, 5);
    theirs.mul_(new Scalar(2));
    assertThat(ours.toFloats()).containsExactly(0, 2, 4, 6, 8, 10);
    ours.rows(1, 2).zero();
    assertThat(at(theirs, 2)).isEqualTo(4);
    assertThat(at(theirs, 5)).isZero();
    assertThat(context.liveBytes()).as("nothing was allocated").isZero();
  }

  @ParameterizedTest
  @CsvSource({
    "Float, F32",
    "BFloat16, BF16",
    "Half, F16",
    "Double, F64",
    "Int, I32",
    "Long, I64",
    "Byte, U8",
    "Bool, U8"
  })
  void types(torch.ScalarType theirs, DType ours) {
    Tensor tensor = TorchTensors.wrap(scope, ones(3).to(theirs));
    assertThat(tensor.dtype()).isEqualTo(ours);
    switch (ours) {
      case I32 -> assertThat(tensor.toInts()).containsOnly(1);
      case I64 -> assertThat(tensor.toLongs()).containsOnly(1);
      case U8 -> assertThat(tensor.toBytes()).containsOnly(1);
      default -> assertThat(tensor.toFloats()).containsOnly(1);
    }
  }

  @Test
  void slicesKeepTheirStrides() {
    org.bytedeco.pytorch.Tensor fused = counting(2, 3, 2, 4); // rows, (q, k, v), heads, dim
    Tensor k = TorchTensors.wrap(scope, fused.select(1, 1));
    assertThat(k.shape()).containsExactly(2, 2, 4);
    assertThat(k.stride(0)).isEqualTo(24);
    assertThat(k.stride(1)).isEqualTo(4);
    assertThat(k.toFloats())
        .containsExactly(8, 9, 10, 11, 12, 13, 14, 15, 32, 33, 34, 35, 36, 37, 38, 39);
  }

  @Test
  void shapesAtTheEdge() {
    Tensor scalar = TorchTensors.wrap(scope, counting(1).select(0, 0));
    assertThat(scalar.shape()).containsExactly(1);
    assertThat(scalar.item()).isZero();
    Tensor none = TorchTensors.wrap(scope, zeros(0, 5));
    assertThat(none.shape()).containsExactly(0, 5);
    assertThat(none.toFloats()).isEmpty();
  }

  @Test
  void memoryOutlivesThePointerScopeThatItWasMadeIn() {
    Tensor ours;
    try (PointerScope pointers = new PointerScope()) {
      ours = TorchTensors.wrap(scope, counting(1000));
    }
    try (PointerScope pointers = new PointerScope()) {
      for (int i = 0; i < 100; i++) {
        zeros(1000); // would get the memory
      }
    }
    assertThat(ours.toFloats()[999]).isEqualTo(999);
  }

  @Test
  void closingGivesTheMemoryBack() {
    try (org.bytedeco.pytorch.Tensor theirs = counting(4)) {
      long before = theirs.storage().use_count();
      Tensor first = TorchTensors.wrap(scope, theirs);
      TorchTensors.wrap(scope, theirs);
      assertThat(theirs.storage().use_count()).isEqualTo(before + 2);
      first.close();
      first.close();
      assertThat(theirs.storage().use_count()).isEqualTo(before + 1);
      scope.close();
      assertThat(theirs.storage().use_count()).isEqualTo(before);
      assertThatThrownBy(() -> TorchTensors.wrap(scope, theirs)).hasMessageContaining("closed");
      assertThat(theirs.storage().use_count()).isEqualTo(before);
    }
  }

  @Test
  void theMemoryStaysWhenTheirTensorTakesOther() {
    try (org.bytedeco.pytorch.Tensor theirs = counting(4);
        org.bytedeco.pytorch.Tensor alias = theirs.detach();
        org.bytedeco.pytorch.Tensor other = counting(1000)) {
      Tensor ours = TorchTensors.wrap(scope, theirs);
      float[] before = ours.toFloats();
      long users = alias.storage().use_count();
      theirs.set_data(other);
      assertThat(alias.storage().use_count()).isEqualTo(users - 1);
      assertThat(ours.toFloats()).isEqualTo(before);
      ours.close();
      assertThat(alias.storage().use_count()).isEqualTo(users - 2);
    }
  }

  @Test
  void tensorsThatCannotBe() {
    org.bytedeco.pytorch.Tensor matrix = counting(2, 3);
    assertInvalid(
        () -> TorchTensors.wrap(scope, matrix.transpose(0, 1)),
        "wrap: strides: expected 1 in dimension 1 of f32[3, 2], got [1, 3]");
    assertInvalid(
        () -> TorchTensors.wrap(scope, matrix.select(0, 0).expand(4, 3)),
        "wrap: strides: expected 3 or more in dimension 0 of f32[4, 3], got [0, 1]");
    assertInvalid(
        () -> TorchTensors.wrap(scope, matrix.to(torch.ScalarType.Short)),
        "wrap: tensor: expected Float, BFloat16, Half, Double, Int, Long, Byte or Bool, got Short");
    assertInvalid(
        () -> TorchTensors.wrap(scope, matrix.to_sparse()),
        "wrap: tensor: expected layout Strided, got Sparse");
    assertInvalid(
        () -> TorchTensors.wrap(scope, new org.bytedeco.pytorch.Tensor()),
        "wrap: tensor: expected a tensor, got an undefined one");
    assertInvalid(
        () -> TorchTensors.wrap(scope, null), "wrap: tensor: expected a tensor, got null");
    assertInvalid(() -> TorchTensors.wrap(null, matrix), "wrap: scope: expected a value, got null");
    assertInvalid(
        () -> TorchTensors.wrap(scope, matrix._neg_view()),
        "wrap: tensor: expected its values in memory, got a lazy negation: resolve_neg() computes"
            + " it");
    assertInvalid(
        () -> TorchTensors.context(new Device("meta")),
        "wrap: device: expected the CPU or a GPU of CUDA, got meta");
  }

  @Test
  void gradientsGoBackThroughAutograd() {
    org.bytedeco.pytorch.Tensor x = randn(5, 8);
    org.bytedeco.pytorch.Tensor weight = randn(16, 8).requires_grad_(true);
    org.bytedeco.pytorch.Tensor same = weight.detach().clone().requires_grad_(true);
    org.bytedeco.pytorch.Tensor targets = arange(new Scalar(5)).to(torch.ScalarType.Int);

    org.bytedeco.pytorch.Tensor logits = x.matmul(weight.t());
    org.bytedeco.pytorch.Tensor dLogits = empty_like(logits);
    TokenLogProbs.backward(
        context,
        TorchTensors.wrap(scope, logits),
        TorchTensors.wrap(scope, targets),
        TokenLogProbs.Options.DEFAULT,
        TorchTensors.wrap(scope, ones(5)),
        null,
        TorchTensors.wrap(scope, dLogits));
    backward(
        new TensorVector(logits),
        new TensorVector(dLogits),
        new BoolOptional(),
        false,
        new TensorVector());

    log_softmax(x.matmul(same.t()), 1)
        .gather(1, targets.to(torch.ScalarType.Long).unsqueeze(1))
        .sum()
        .backward();
    float[] ours = TorchTensors.wrap(scope, weight.grad()).toFloats();
    float[] theirs = TorchTensors.wrap(scope, same.grad()).toFloats();
    for (int i = 0; i < ours.length; i++) {
      assertThat(Math.abs(ours[i] - theirs[i])).isLessThanOrEqualTo(1e-5f);
    }
  }
}
