package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class BenchCommandTest {
  @TempDir private Path folder;

  @Test
  void measuresIntoATableAndAFileThatCompares() throws Exception {
    Path csv = folder.resolve("results.csv");
    Cli run = Cli.run("bench", "--quick", "--peers", "none", "--csv", csv, "call");
    assertThat(run.status()).as(run.err()).isZero();
    assertThat(run.out()).contains("median ms", "call ", "axpby of 1", "copy", "100 %");
    assertThat(Files.readAllLines(csv)).hasSize(5);

    Cli same = Cli.run("bench", "--compare", csv, csv);
    assertThat(same.status()).isZero();
    assertThat(same.out()).contains("0 slower, 0 faster, 4 same");

    Path slower = folder.resolve("slower.csv");
    Files.writeString(
        slower,
        Files.readString(csv)
            .replaceAll("(?m)^(call,([^,]*,){6})[^,]*,[^,]*,[^,]*", "$199999,99999,0.1"));
    Cli found = Cli.run("bench", "--compare", csv, slower);
    assertThat(found.status()).isEqualTo(Main.FAILED);
    assertThat(found.out()).contains("slower  call, axpby of 1, f32");
  }

  @Test
  void theTrainingLoopGoesAlone() {
    Cli kept = Cli.run("bench", "training_loop", "--csv", folder.resolve("results.csv"));
    assertThat(kept.status()).isEqualTo(Main.REJECTED);
    assertThat(kept.err()).contains("training_loop does not go with --csv");

    Cli grown = Cli.run("bench", "training_loop", "--scaling");
    assertThat(grown.status()).isEqualTo(Main.REJECTED);
    assertThat(grown.err()).contains("training_loop does not go with --scaling");

    Cli among = Cli.run("bench", "training_loop", "adamw");
    assertThat(among.status()).isEqualTo(Main.REJECTED);
    assertThat(among.err()).contains("training_loop does not go with other operations");
  }

  @Test
  void aFileThatCannotKeepResultsIsRejectedAtOnce() throws Exception {
    Path other = Files.writeString(folder.resolve("other.csv"), "a,b\n");
    Cli foreign = Cli.run("bench", "--quick", "--peers", "none", "--csv", other, "call");
    assertThat(foreign.status()).isEqualTo(Main.REJECTED);
    assertThat(foreign.errors()).hasSize(1);
    assertThat(foreign.err()).contains("--csv: ", "other.csv: the first line is not the header");

    Path below = other.resolve("results.csv");
    Cli nowhere = Cli.run("bench", "--quick", "--peers", "none", "--csv", below, "call");
    assertThat(nowhere.status()).isEqualTo(Main.REJECTED);
    assertThat(nowhere.errors()).hasSize(1);
    assertThat(nowhere.err()).contains("--csv: ", "exists and is not a folder");
  }

  @Test
  void unknownOperationsAndFilesAreRejected() {
    Cli unknown = Cli.run("bench", "sampled_lk");
    assertThat(unknown.status()).isEqualTo(Main.REJECTED);
    assertThat(unknown.err()).contains("no operation 'sampled_lk'; there are adamw, ");

    Cli fixed = Cli.run("bench", "--scaling", "sampled_kl");
    assertThat(fixed.status()).isEqualTo(Main.REJECTED);
    assertThat(fixed.err()).contains("no operation 'sampled_kl' with --scaling; there are ");

    Cli peer = Cli.run("bench", "--peers", "eager,jax");
    assertThat(peer.status()).isEqualTo(Main.REJECTED);
    assertThat(peer.err()).contains("no peer 'jax'; there are djl, nd4j, eager, ");

    Cli missing = Cli.run("bench", "--compare", folder.resolve("a"), folder.resolve("b"));
    assertThat(missing.status()).isEqualTo(Main.REJECTED);
    assertThat(missing.err()).contains("no such file");
  }
}
