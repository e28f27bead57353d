package dev.saccade.train.model;

import dev.saccade.AttentionPolicy;
import dev.saccade.Context;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.List;
import java.util.function.UnaryOperator;

/**
 * What a trainer needs of a policy. Implement it to train another model: the losses, their
 * gradients and the attention terms stay outside of the model.
 */
public interface PolicyModel extends AutoCloseable {
  /** The context that the model computes in. */
  Context context();

  /** Size of the vocabulary. */
  int vocabulary();

  /** Number of layers; attention of layer 0 … layers − 1 can be asked for. */
  int layers();

  /** The trained tensors, in a fixed order. */
  List<Parameter> parameters();

  /**
   * Samples responses.
   *
   * @param group responses for each prompt
   * @return token ids, the responses to a prompt next to each other; each ends with the stop token
   *     or has {@link Sampling#maxTokens}
   */
  int[][] sample(List<Prompt> prompts, int group, Sampling sampling);

  /**
   * How to sample.
   *
   * @param temperature divides the logits; 0 takes the likeliest token
   * @param maxTokens longest response
   * @param stopToken token that ends a response
   * @param seed key of the random numbers
   * @param offset counter of the random numbers: two calls with the same seed and offset draw the
   *     same
   */
  record Sampling(float temperature, int maxTokens, int stopToken, long seed, long offset) {}

  /** What {@link #forward} needs of a batch, on the device. */
  interface Inputs {
    /** The same of other tensors, for a batch of the same shapes. */
    Inputs with(UnaryOperator<Tensor> tensors);

    /**
     * What passes depend on besides tensors and their shapes: those over inputs of equal layouts,
     * with tensors of the same shapes, are the same calls.
     */
    Object layout();
  }

  /**
   * Brings the images of prompts to the device, where {@link #sample} and {@link #prepare} find
   * them, if they are given these very objects, or some that follow each other here; others they
   * bring anew. Of several calls the last one counts.
   *
   * @param scope holds the images; what {@link #prepare} makes of them lives no longer than it
   */
  default void load(Scope scope, List<Prompt> prompts) {}

  /**
   * Brings a batch to the device, for any number of passes of this model and of others of its
   * architecture in the same context.
   *
   * @param scope what is there lives in it, but for what {@link #load} has brought
   */
  Inputs prepare(Scope scope, Batch batch);

  /**
   * Runs the model on a batch: nothing but operations of the context, which {@link Replays} may
   * record.
   *
   * @param scope holds every activation that {@link #backward} needs; close it when done
   * @param inputs the batch; its scope must be open until {@link #backward} is through
   * @param attentionLayers layers whose queries and keys are wanted
   */
  Activations forward(Scope scope, Inputs inputs, int... attentionLayers);

  /** Runs the model on a batch that no other pass needs. */
  default Activations forward(Scope scope, Batch batch, int... attentionLayers) {
    return forward(scope, prepare(scope, batch), attentionLayers);
  }

  /** What a forward pass yields. */
  interface Activations {
    /** f32[response rows, vocabulary]. */
    Tensor logits();

    /**
     * Queries of the response rows and keys of the whole sequences, after position encoding, of a
     * layer that was asked for; packed as the operations take them.
     */
    AttentionPolicy.Input attention(int layer);
  }

  /**
   * Adds the gradient of a loss to the parameters' gradients: nothing but operations, as {@link
   * #forward}.
   *
   * @param activations what {@link #forward} of this model returned, its scope still open
   * @param dLogits f32, gradient of the loss with respect to the logits
   * @param attention gradients with respect to queries and keys, added where those activations are;
   *     may come from a {@link Context#fork}, which is joined before they are read
   */
  default void backward(
      Activations activations, Tensor dLogits, List<AttentionGradient> attention) {
    backward(activations, dLogits, attention, null);
  }

  /**
   * As above, but shows the gradients of the matrices instead of adding them: for a part of the
   * rows, such as those of one sequence.
   *
   * @param probe sees every product of a matrix; null: all is added
   */
  void backward(
      Activations activations, Tensor dLogits, List<AttentionGradient> attention, Probe probe);

  /** Looks at gradients on their way through {@link #backward}. */
  interface Probe {
    /**
     * The gradient of a matrix w in y = x · w, which is the sum xᵀ · dy over the rows; the last
     * layer comes first. Where y are queries, keys and values, dy is the whole gradient with
     * respect to them, after position encoding.
     *
     * <p>Rows of the layers are those of the sequences, one after another, unless several share a
     * prompt: then the rows of a prompt come once, with what its responses bring together.
     *
     * @param weight f32[n, m]
     * @param x f32[rows, n]; only during the call, as {@code dy}
     * @param dy f32[rows, m]
     */
    void product(Parameter weight, Tensor x, Tensor dy);
  }

  /**
   * Gradient of a loss with respect to the queries and keys that {@link Activations#attention}
   * gave.
   *
   * @param layer the layer
   * @param dq f32[response rows, heads, head dimension]
   * @param dk f32[rows, key heads, head dimension]
   */
  record AttentionGradient(int layer, Tensor dq, Tensor dk) {}

  /** A model of the same architecture and weights with parameters of its own. */
  PolicyModel copy();

  /** Sets all gradients to 0: nothing but operations, as {@link #forward}. */
  default void clearGradients() {
    parameters().forEach(parameter -> parameter.gradient().zero());
  }

  /** Takes the weights of a model of the same architecture. */
  default void copyFrom(PolicyModel other) {
    List<Parameter> from = other.parameters();
    List<Parameter> to = parameters();
    for (int i = 0; i < to.size(); i++) {
      to.get(i).value().copyFrom(from.get(i).value());
    }
  }

  /** Frees the parameters. */
  @Override
  void close();
}
