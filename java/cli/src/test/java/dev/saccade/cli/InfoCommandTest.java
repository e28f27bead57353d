package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import org.junit.jupiter.api.Test;

class InfoCommandTest {
  @Test
  void twoColumnsOfFacts() {
    Cli run = Cli.run("info", "--threads", 2);

    assertThat(run.status()).isZero();
    assertThat(run.err()).isEmpty();
    assertThat(run.out().lines()).allMatch(line -> line.matches("\\S.{15}  \\S.*"));
    assertThat(run.out())
        .containsPattern("Version +\\d")
        .containsPattern("Native library +saccade ")
        .containsPattern("CUDA +(not )?in this build")
        .containsPattern("Instruction set +(avx512|avx2|baseline)")
        .containsPattern("Threads +2")
        .containsPattern(
            "(GPUs +cuda:0 .*compute capability|No GPU +gpu_describe: device: expected)")
        .containsPattern("Java +\\d+");
  }

  @Test
  void oneJsonObject() throws IOException {
    Cli run = Cli.run("info", "--json", "--threads", 1, "--instruction-set", "baseline");

    JsonNode facts = new ObjectMapper().readTree(run.out());
    assertThat(facts.get("threads").intValue()).isEqualTo(1);
    assertThat(facts.get("instruction_set").textValue()).isEqualTo("baseline");
    assertThat(facts.get("cuda").isBoolean()).isTrue();
    assertThat(facts.has("gpus")).isNotEqualTo(facts.has("no_gpu"));
    assertThat(facts.get("native_library").textValue()).startsWith("saccade ");
  }
}
