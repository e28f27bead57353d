package dev.saccade.train.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.List;
import org.junit.jupiter.api.Test;

class TaskMixtureTest {

  @Test
  void tasksTakeTurns() {
    TaskMixture mixture = TaskMixture.parse("count + read");

    assertThat(mixture).hasToString("count+read");
    assertThat(mixture.at(0).name()).isEqualTo("count");
    assertThat(mixture.at(1).name()).isEqualTo("read");
    assertThat(mixture.at(-1).name()).isEqualTo("read");
    assertThat(TaskMixture.parse("read").at(0).name()).isEqualTo("read");
  }

  @Test
  void unknownNamesAreRejectedWithThoseKnown() {
    assertThatThrownBy(() -> TaskMixture.parse("cuont+read"))
        .isInstanceOf(IllegalArgumentException.class)
        .hasMessage(
            "unknown task \"cuont\" in \"cuont+read\"; known tasks: count, read, compare, sum,"
                + " length, angle, intersections, geometry, joined by +");
    assertThat(TaskMixture.parse("count+geometry")).hasToString("count+length+angle+intersections");
    assertThatThrownBy(() -> TaskMixture.parse("count+"))
        .hasMessageStartingWith("unknown task \"\" in \"count+\"");
    assertThatThrownBy(() -> TaskMixture.parse("")).hasMessageStartingWith("unknown task \"\"");
  }

  @Test
  void tasksMustBeDistinctAndThere() {
    assertThatThrownBy(() -> TaskMixture.parse("read+read"))
        .hasMessage("task \"read\" occurs twice");
    assertThatThrownBy(() -> new TaskMixture(List.of()))
        .hasMessage("a mixture needs at least one task");
  }
}
