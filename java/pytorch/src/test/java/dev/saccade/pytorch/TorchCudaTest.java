package dev.saccade.pytorch;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.bytedeco.pytorch.global.torch.empty;
import static org.bytedeco.pytorch.global.torch.randn;
import static org.bytedeco.pytorch.global.torch.zeros;

import dev.saccade.Context;
import dev.saccade.InvalidArgumentException;
import dev.saccade.Scope;
import dev.saccade.TokenLogProbs;
import org.bytedeco.pytorch.Device;
import org.bytedeco.pytorch.Tensor;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch_cuda;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIf;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** With a CUDA build of PyTorch (classifier linux-x86_64-gpu on the class path) on a GPU. */
@Tag("gpu")
@EnabledIf("hasGpu")
class TorchCudaTest {
  private static final int ROWS = 512;
  private static final int VOCABULARY = 1024;
  private static final int STEPS = 50;

  static boolean hasGpu() {
    return torch.cuda_is_available();
  }

  /** Products and operations by turns without waiting: the order is that of one stream. */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void sharesTheCurrentStream(boolean ofThePool) {
    var before = torch_cuda.getCurrentCUDAStream((byte) 0);
    var stream = ofThePool ? torch_cuda.getStreamFromPool(false, (byte) 0) : before;
    torch_cuda.setCurrentCUDAStream(stream);
    try (Context context = TorchTensors.context(new Device("cuda:0"));
        Scope scope = context.scope()) {
      long handle = stream.stream() == null ? 0 : stream.stream().address();
      assertThat(context.stream()).isEqualTo(handle);
      Tensor w = randn(VOCABULARY, VOCABULARY).cuda();
      Tensor targets = zeros(ROWS).to(torch.ScalarType.Int).cuda();
      Tensor logProb = empty(ROWS).cuda();
      for (int i = 0; i < STEPS; i++) {
        Tensor logits = randn(ROWS, VOCABULARY).cuda().matmul(w);
        TokenLogProbs.forward(
            context,
            TorchTensors.wrap(scope, logits),
            TorchTensors.wrap(scope, targets),
            TokenLogProbs.Options.DEFAULT,
            new TokenLogProbs.Outputs(TorchTensors.wrap(scope, logProb), null, null));
        Tensor expected = logits.log_softmax(1).select(1, 0);
        assertThat(logProb.sub(expected).abs().max().item_float()).isLessThanOrEqualTo(1e-3f);
      }
    } finally {
      torch_cuda.setCurrentCUDAStream(before);
    }
  }

  @Test
  void staysOnItsDevice() {
    try (Context cpu = Context.cpu();
        Scope scope = cpu.scope()) {
      assertThatThrownBy(() -> TorchTensors.wrap(scope, zeros(3).cuda()))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage("wrap: tensor: expected memory of cpu, got a tensor on cuda:0");
    }
  }
}
