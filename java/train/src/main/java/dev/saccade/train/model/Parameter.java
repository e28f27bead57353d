package dev.saccade.train.model;

import dev.saccade.Tensor;

/**
 * A trained tensor and its gradient.
 *
 * @param name unique within the model
 * @param value f32
 * @param gradient f32, of the same shape; {@link PolicyModel#backward} adds to it
 * @param decay whether weight decay applies
 */
public record Parameter(String name, Tensor value, Tensor gradient, boolean decay) {}
