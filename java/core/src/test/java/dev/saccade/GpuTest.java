package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;

class GpuTest {
  @Test
  void everyGpuOrWhyThereIsNone() {
    List<Gpu> gpus;
    try {
      gpus = Gpu.all();
    } catch (UnsupportedException e) {
      assertThat(e).hasMessageStartingWith("gpu_describe: device: expected");
      return;
    }
    assertThat(gpus).isNotEmpty();
    for (int i = 0; i < gpus.size(); i++) {
      Gpu gpu = gpus.get(i);
      assertThat(gpu.device()).isEqualTo(Device.cuda(i));
      assertThat(gpu.name()).isNotBlank();
      assertThat(gpu.capability()).matches("\\d+\\.\\d");
      assertThat(gpu.processors()).isPositive();
      assertThat(gpu.memory()).isGreaterThan(1L << 30);
      assertThat(gpu.cuda()).matches("\\d+\\.\\d+");
    }
  }

  @Test
  void oneLine() {
    Gpu gpu = new Gpu(Device.cuda(1), "GPU of a test", "9.0", 132, 80L << 30, "13.0");
    assertThat(gpu)
        .hasToString(
            "cuda:1 GPU of a test, compute capability 9.0, 132 multiprocessors, 80.0 GiB, driver"
                + " for CUDA 13.0");
  }
}
